"""All objects of one kind, kept current: one list, then one watch after the other from where the last one ended.

What holds whatever happens: the objects last known stay; nothing is asked more often than every two seconds after a
failure, and every 23 at most; a stream that has gone silent is given up within a minute.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from dolphin_agent.errors import KubeError
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.kube.client import raise_if_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dolphin_agent.kube.client import Client, Object

T = TypeVar("T")

PAGE = "100"
"""Objects in one answer, where there are many."""
WATCH_SECONDS = (40, 50)
"""After how long the server is asked to end a watch, by chance between these. Only the end of a watch proves that a
silent one was alive: servers promise no bookmarks for kinds where nothing happens."""
GRACE_SECONDS = 5
DELAYS = (2.0, 4.0, 8.0, 15.0)
"""Seconds to wait after the first failure in a row, the second, and so on; up to half as much again by chance."""
LONGEST_WAIT = 60.0
"""Of those that a server may ask for by Retry-After."""
STABLE_SECONDS = 10.0
"""A watch that lasted so long ends a row of failures."""

_NOT_FOUND, _GONE, _TOO_LARGE = 404, 410, 504

log = structlog.get_logger()


@dataclass(frozen=True)
class Resource:
    """A kind and which of its objects."""

    name: str
    """As `kubectl get` takes it."""
    path: str
    """Of the collection: `/api/v1/pods`."""
    query: Mapping[str, str] = field(default_factory=FrozenMap)
    """Selectors."""
    absent: str = ""
    """What to do where the server knows no such kind."""
    large: bool = False
    """So many that they are listed in pages: a list out of the server's memory comes in one piece."""


@dataclass(frozen=True)
class View(Generic[T]):
    """What is known; immutable."""

    objects: Mapping[str, T] = field(default_factory=dict)
    """`namespace/name`, or the name alone -> what was picked of the object."""
    synced: bool = False
    """All objects have been listed once."""
    problem: str = ""
    """Why the view may be out of date, or empty."""


@dataclass(frozen=True)
class _Entry(Generic[T]):
    uid: str
    version: int
    picked: T


class Reflector(Generic[T]):
    """Keeps a View from a thread of its own; `changed` is called from there after each change."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        pick: Callable[[Object], T | None],
        changed: Callable[[], None],
    ) -> None:
        """Take what to follow. `pick` keeps of an object what is needed; None leaves it out."""
        self._client = client
        self._resource = resource
        self._pick = pick
        self._changed = changed
        self.view: View[T] = View()
        self._entries: dict[str, _Entry[T]] = {}
        self._version: str | None = None
        """Where the next watch begins; None: list first."""
        self._list_from = "0"
        """The oldest state that a list may show: 0 is any, which the server has in memory; empty: the latest."""
        self._failures = 0
        self._contact = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a watch that is silent just then is left to the end of the process."""
        self._stop.set()

    @property
    def age(self) -> float:
        """Seconds since the server last showed that the view is current; below 60 where all is well."""
        return time.monotonic() - self._contact

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if self._version is None:
                    self._list()
                self._watch()
            except KubeError as fault:
                self._failed(fault, time.monotonic() - began)
            except Exception as fault:  # whatever it was, the next attempt may do better
                log.exception("watching failed", kind=self._resource.name)
                self._version = None
                self._failed(KubeError(f"internal error: {fault!r}"), time.monotonic() - began)
            else:
                if time.monotonic() - began < 1:
                    self._stop.wait(DELAYS[0])  # a server that ends watches at once

    def _list(self) -> None:
        entries: dict[str, _Entry[T]] = {}
        query = {**self._resource.query, "limit": PAGE, "resourceVersion": self._list_from}
        if self._resource.large or not self._list_from:
            del query["resourceVersion"]
        while True:
            page = self._client.get(self._resource.path, query)
            for item in page.get("items") or ():
                self._take(entries, item)
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                break
            query = {**self._resource.query, "limit": PAGE, "continue": metadata["continue"]}
        self._entries = entries
        self._version = self._list_from = str(metadata.get("resourceVersion") or "")
        self._contact = time.monotonic()
        self._publish()

    def _watch(self) -> None:
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - spreads load, no secret
        query = {
            **self._resource.query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": str(seconds),
        }
        began = time.monotonic()
        for event in self._client.watch(self._resource.path, query, seconds + GRACE_SECONDS):
            self._contact = time.monotonic()
            if self.view.problem:
                self._publish()
            if self._contact - began > STABLE_SECONDS:
                self._failures = 0
            if event:
                self._handle(event)
            if self._stop.is_set():
                return
        self._contact = time.monotonic()
        self._failures = 0

    def _handle(self, event: Object) -> None:
        raise_if_error(event)
        item = event.get("object") or {}
        metadata = item.get("metadata") or {}
        if event.get("type") == "DELETED":
            key = _key(metadata)
            entry = self._entries.get(key)
            if entry and entry.uid in ("", metadata.get("uid")) and _number(metadata) >= entry.version:
                del self._entries[key]
                self._publish()
        elif event.get("type") != "BOOKMARK" and self._take(self._entries, item):
            self._publish()
        if version := metadata.get("resourceVersion"):
            self._version = self._list_from = str(version)

    def _take(self, entries: dict[str, _Entry[T]], item: Object) -> bool:
        """Take an object; False if it is older than what is known of it, or does not matter any more."""
        metadata = item.get("metadata") or {}
        key, uid, version = _key(metadata), str(metadata.get("uid") or ""), _number(metadata)
        known = entries.get(key)
        if known and known.uid == uid and version < known.version:
            return False
        picked = self._pick(item)
        if picked is None:
            return entries.pop(key, None) is not None
        entries[key] = _Entry(uid, version, picked)
        return known is None or known.picked != picked

    def _failed(self, fault: KubeError, lasted: float) -> None:
        if fault.status in (_GONE, _TOO_LARGE):
            # The version is older than what the server still has, or newer than what this one has yet.
            self._version, self._list_from = None, ""
        if lasted > STABLE_SECONDS:
            self._failures = 0
        expired = fault.status == _GONE and not self._failures
        delay = DELAYS[min(self._failures, len(DELAYS) - 1)] * random.uniform(1, 1.5)  # noqa: S311
        delay = max(delay, min(fault.retry_after or 0, LONGEST_WAIT))
        self._failures += 1
        if expired:  # ordinary after a compaction: list anew, and say nothing
            log.info("listing anew", kind=self._resource.name, reason=str(fault))
        else:
            self._complain(fault)
        self._stop.wait(delay)

    def _complain(self, fault: KubeError) -> None:
        absent = self._resource.absent if fault.status == _NOT_FOUND else ""
        kept = "; what was last known of them holds" if self.view.synced else "; none is known yet"
        problem = f"{self._resource.name}: {fault}{absent}{kept}"
        if _without_time(self.view.problem) != problem:
            now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
            self.view = View(self.view.objects, self.view.synced, f"{problem} (since {now})")
            self._changed()

    def _publish(self) -> None:
        objects = {key: entry.picked for key, entry in self._entries.items()}
        self.view = View(objects, synced=True)
        self._changed()


def _key(metadata: Mapping[str, Any]) -> str:
    namespace, name = metadata.get("namespace"), metadata.get("name")
    return f"{namespace}/{name}" if namespace else str(name)


def _number(metadata: Mapping[str, Any]) -> int:
    """The resource version, by which states of an object can be ordered (KEP-5504); 0 where it is no number."""
    text = str(metadata.get("resourceVersion") or "")
    return int(text) if text.isdecimal() else 0


def _without_time(problem: str) -> str:
    return problem.rpartition(" (since ")[0]
