"""The answer to one scrape, in the format that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dolphin_agent.export import prometheus, protobuf
from dolphin_agent.export.http import Response
from dolphin_agent.export.negotiation import Format, choose, gzip, takes_gzip

if TYPE_CHECKING:
    from dolphin_agent.export.http import Request
    from dolphin_agent.export.own import OwnMetrics
    from dolphin_agent.snapshot.model import Snapshot


def scrape(request: Request, snapshot: Snapshot, own: OwnMetrics) -> Response:
    """Encode the snapshot's series and the agent's own."""
    form = choose(request.accept)
    if form is Format.PROTOBUF:
        body = protobuf.encode(snapshot, own.collect())
    else:
        is_open = form is Format.OPENMETRICS
        body = prometheus.encode(snapshot, openmetrics=is_open) + own.encode(openmetrics=is_open)
    if takes_gzip(request.accept_encoding):
        return Response(gzip(body), content_type=form.value, content_encoding="gzip")
    return Response(body, content_type=form.value)
