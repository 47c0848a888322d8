"""One request, one answer; or the lines of a watch. Plain JSON: typed models cost time and memory, and break."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ReadTimeoutError, SSLError

from dolphin_agent.errors import KubeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dolphin_agent.kube.access import Access

    Object = dict[str, Any]

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
"""A list of some hundred pods takes a busy API server seconds."""

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""

_AGENT = "dolphin-agent"
_GONE, _TOO_MANY = 410, 429
_LINE_LIMIT = 16 * 2**20
"""etcd takes objects of 1.5 MiB; a longer line is no event."""

# A dead peer is noticed within 25 s even if nothing is sent to it.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class Client:
    """Connections to one API server; may be used by several threads. Every failure is a KubeError."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._pool = self._connect()

    def _connect(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(
            num_pools=1,
            maxsize=4,
            retries=False,
            ssl_context=self._access.tls(),
            assert_hostname=self._access.server_name,
            socket_options=[*HTTPConnection.default_socket_options, *_KEEPALIVE],
        )

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        """Read an object or a list."""
        return self.send("GET", path, query=query)

    def send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> Object:
        """Ask for anything; returns the answer's JSON object."""
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
        response = self._request(method, path, query, body, content_type, timeout)
        try:
            data = response.read()
        except HTTPError as fault:
            raise self._broken(fault) from fault
        finally:
            response.release_conn()
        return self._decode(data)

    def watch(self, path: str, query: Mapping[str, str], silence: float) -> Iterator[Object]:
        """The events of a watch, one after the other; ends when the server ends it.

        `silence` is how many seconds without a byte are taken for a broken connection. The first item is an empty
        event: the server has accepted the watch.
        """
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=silence)
        response = self._request("GET", path, query, None, JSON, timeout)
        try:
            yield {}
            rest = b""
            for chunk in response.stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield self._decode(line)
                if len(rest) > _LINE_LIMIT:
                    raise KubeError(f"{self._access.server}: a watch event longer than {_LINE_LIMIT} bytes")
        except HTTPError as fault:
            raise self._broken(fault) from fault
        finally:
            response.close()

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        content_type: str,
        timeout: urllib3.Timeout,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": JSON, "User-Agent": _AGENT}
        try:
            if token := self._access.token():
                headers["Authorization"] = f"Bearer {token}"
        except OSError as fault:
            raise KubeError(f"the ServiceAccount's token cannot be read: {fault}") from fault
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body, separators=(",", ":")).encode()
        url = f"{self._access.server}{path}"
        if query:
            url += "?" + urlencode(query)
        try:
            response = self._pool.request(
                method, url, body=data, headers=headers, timeout=timeout, preload_content=False, redirect=False
            )
        except HTTPError as fault:
            raise self._broken(fault) from fault
        if response.status >= 300:  # noqa: PLR2004 - of HTTP; nothing is redirected
            raise self._refused(response)
        return response

    def _refused(self, response: urllib3.BaseHTTPResponse) -> KubeError:
        try:
            text = response.read().decode(errors="replace")
        except HTTPError:
            text = ""
        finally:
            response.release_conn()
        return self._error(response.status, text, response.headers.get("Retry-After"))

    def _error(self, status: int, text: str, retry_after: str | None = None) -> KubeError:
        try:
            answer = json.loads(text)
            message = str(answer["message"])
        except (ValueError, KeyError, TypeError):
            message = " ".join(text.split())[:200] or "no explanation"
        wait = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return KubeError(
            f"{self._access.server}: {message} ({status}){_remedy(status)}", status=status, retry_after=wait
        )

    def _broken(self, fault: HTTPError) -> KubeError:
        cause: Exception = fault
        if isinstance(fault, MaxRetryError) and fault.reason:
            cause = fault.reason
        server = self._access.server
        if isinstance(cause, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(cause):
            # The CA may have been replaced meanwhile.
            self._pool = self._connect()
            authority = self._access.ca_file or "the system's certificates"
            return KubeError(f"{server}: its certificate was not accepted by {authority}: {_plain(cause)}")
        if isinstance(cause, ReadTimeoutError):
            return KubeError(f"{server}: did not answer in time")
        if isinstance(cause, NewConnectionError):
            return KubeError(f"{server}: cannot be reached: {_plain(cause)}")
        return KubeError(f"{server}: the connection broke: {_plain(cause)}")

    def _decode(self, data: bytes) -> Object:
        try:
            found = json.loads(data)
        except ValueError as fault:  # UnicodeDecodeError is one
            raise KubeError(f"{self._access.server}: an answer that is not JSON: {fault}") from fault
        if not isinstance(found, dict):
            raise KubeError(f"{self._access.server}: an answer that is no JSON object")
        return cast("Object", found)


def raise_if_error(event: Object, server: str = "the API server") -> None:
    """Raise the KubeError that an ERROR event of a watch carries."""
    if event.get("type") != "ERROR":
        return
    status = event.get("object") or {}
    code = status.get("code")
    code = code if isinstance(code, int) else 0
    raise KubeError(f"{server}: {status.get('message', 'the watch failed')} ({code})", status=code)


def _remedy(status: int) -> str:
    remedies = {
        401: "; has the ServiceAccount's token expired, or was the ServiceAccount made anew?",
        403: "; grant it with the ClusterRole of the Helm chart",
    }
    return remedies.get(status, "")


def _plain(fault: Exception) -> str:
    """What a fault of urllib3 says, without the objects it names."""
    inner = fault.args[-1] if fault.args else None
    if isinstance(inner, Exception):
        return _plain(inner)
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    text = str(fault)
    for marker in ("[Errno ", "[SSL: "):
        if marker in text:
            return text[text.index(marker) :].partition("] ")[2].rstrip(")'\"")
    return text.rpartition(": ")[2] or type(fault).__name__
