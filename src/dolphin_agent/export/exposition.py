"""What /metrics answers: one body for all who ask for the same snapshot in the same form at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from dolphin_agent.export import prometheus, protobuf
from dolphin_agent.export.http import Response
from dolphin_agent.export.negotiation import Format, choose, gzip, takes_gzip

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dolphin_agent.export.http import Request
    from dolphin_agent.export.own import OwnMetrics
    from dolphin_agent.snapshot.model import Snapshot


class Exposition:
    """Encodes a snapshot and the agent's own metrics. Used by any number of threads.

    A body is kept while anybody waits for one: many scrapers at once cost the processor one encoding, and memory one
    body, however slowly they read. One thread encodes: malloc keeps for each what it has once freed.
    """

    def __init__(self, own: OwnMetrics) -> None:
        """Take what is to be added to each snapshot."""
        self._own = own
        self._thread = ThreadPoolExecutor(1, "encode")
        self._lock = threading.Lock()
        self._waiting = 0
        self.seconds = 0.0
        """How long the last encoding took."""
        self._bodies: dict[tuple[Format, bool], tuple[Snapshot, Future[Response]]] = {}

    def answer(self, snapshot: Snapshot, request: Request) -> Response:
        """The body that a scraper asks for by its headers."""
        form = choose(request.accept), takes_gzip(request.accept_encoding)
        with self._lock:
            self._waiting += 1
            known, body = self._bodies.get(form, (None, None))
            if body is None or known is not snapshot:
                body = self._thread.submit(self._encode, snapshot, *form)
                self._bodies[form] = snapshot, body
        try:
            return body.result()
        finally:
            with self._lock:
                self._waiting -= 1
                if not self._waiting:
                    self._bodies = {}

    def _encode(self, snapshot: Snapshot, form: Format, compressed: bool) -> Response:  # noqa: FBT001 - of one call
        began = time.monotonic()
        if form is Format.PROTOBUF:
            body = protobuf.encode(snapshot, self._own.collect())
        else:
            is_open = form is Format.OPENMETRICS
            body = prometheus.encode(snapshot, openmetrics=is_open) + self._own.encode(openmetrics=is_open)
        if compressed:
            body = gzip(body)
        self.seconds = time.monotonic() - began
        return Response(body, content_type=form.value, content_encoding="gzip" if compressed else "")
