"""What a scraper gets."""

import gzip as reference

import pytest

from dolphin_agent.export.negotiation import Format, choose, gzip, takes_gzip

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
NATIVE = f"{PROTOBUF},{PROMETHEUS_2_42}"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.TEXT),
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/html, image/png", Format.TEXT),
        (PROMETHEUS_2_42, Format.OPENMETRICS),
        (NATIVE, Format.PROTOBUF),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.1", Format.TEXT),
        ("application/openmetrics-text; version=2.0.0", Format.TEXT),
        (f"{PROTOBUF};q=0.2,text/plain", Format.TEXT),
        (PROTOBUF.replace("delimited", "text"), Format.TEXT),
        ("application/openmetrics-text;q=high", Format.TEXT),
        ("application/openmetrics-text;q=0", Format.TEXT),
    ],
)
def test_format(accept, expected):
    assert choose(accept) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, False), ("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip; q=0", False), ("br", False), ("*", True)],
)
def test_gzip_is_asked_for(header, expected):
    assert takes_gzip(header) is expected


def test_gzip():
    body = b"dolphin " * 10_000
    assert reference.decompress(gzip(body)) == body
    assert len(gzip(body)) < len(body) / 50
