"""Which format a scraper gets, by the Accept and Accept-Encoding headers (RFC 9110, 12.5)."""

from __future__ import annotations

import enum
import zlib


class Format(enum.Enum):
    """What /metrics can answer; the value is the content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"


_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 1
"""Of zlib: the text is so repetitive that a higher one saves a tenth, for three times the time."""


def choose(accept: str | None) -> Format:
    """The format with the highest quality that is known; the first named of equal ones; else plain text."""
    best, chosen = 0.0, Format.TEXT
    for part in (accept or "").split(","):
        kind, *fields = (field.strip() for field in part.split(";"))
        parameters = dict(field.partition("=")[::2] for field in fields)
        found = _known(kind.lower(), parameters)
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            continue
        if found and quality > best:
            best, chosen = quality, found
    return chosen


def _known(kind: str, parameters: dict[str, str]) -> Format | None:
    if kind == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
        return Format.OPENMETRICS
    if kind == "application/vnd.google.protobuf":
        delimited = parameters.get("encoding", "delimited") == "delimited"
        right = parameters.get("proto", "io.prometheus.client.MetricFamily") == "io.prometheus.client.MetricFamily"
        return Format.PROTOBUF if delimited and right else None
    return Format.TEXT if kind in ("text/plain", "text/*", "*/*") else None


def takes_gzip(accept_encoding: str | None) -> bool:
    """Whether a body may be compressed."""
    for part in (accept_encoding or "").split(","):
        coding, *fields = (field.strip().lower() for field in part.split(";"))
        if coding in ("gzip", "*"):
            return not any(field.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for field in fields)
    return False


def gzip(body: bytes) -> bytes:
    """Compress a body; other threads run meanwhile."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return compressor.compress(body) + compressor.flush()
