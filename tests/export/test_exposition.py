"""One body for many scrapers."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dolphin_agent.export.exposition import Exposition
from dolphin_agent.export.http import Request
from dolphin_agent.export.negotiation import Format
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME
from dolphin_agent.snapshot.model import Family, Labels, Point, Snapshot

PACKETS = BY_NAME["ipReceive"].metrics[Granularity.POD][0]
SCRAPERS = 20
FORMS = [
    (Request(), Format.TEXT, ""),
    (Request(accept="application/openmetrics-text"), Format.OPENMETRICS, ""),
    (Request(accept="application/vnd.google.protobuf"), Format.PROTOBUF, ""),
    (Request(accept_encoding="gzip"), Format.TEXT, "gzip"),
]


class Own:
    """The agent's own metrics; counts how often they are asked for, and waits as long as it should."""

    def __init__(self):
        self.asked = 0
        self.go = threading.Event()
        self.go.set()

    def encode(self, *, openmetrics):
        self.asked += 1
        assert self.go.wait(10)
        return b"# EOF\n" if openmetrics else b"own 1\n"

    def collect(self):
        self.asked += 1
        return ()


def snapshot(value):
    return Snapshot(9.0, (Family(PACKETS, (Point(Labels((("pod", "a/b"),)), value, 1.0),)),))


@pytest.mark.parametrize(("request_", "form", "coding"), FORMS)
def test_answers_what_is_asked_for(request_, form, coding):
    response = Exposition(Own()).answer(snapshot(5), request_)
    assert (response.status, response.content_type, response.content_encoding) == (200, form.value, coding)
    body = gzip.decompress(response.body) if coding else response.body
    assert PACKETS.name.removesuffix("_total").encode() in body
    if form is Format.TEXT:
        assert body.endswith(b'{pod="a/b"} 5\nown 1\n')


def test_many_at_once_are_one_encoding():
    """Of a form; what another form gets is its own. Afterwards nothing is kept."""
    own = Own()
    own.go.clear()
    exposition = Exposition(own)
    now = snapshot(5)
    with ThreadPoolExecutor(2 * SCRAPERS) as pool:
        asked = [pool.submit(exposition.answer, now, request) for request in (FORMS[0][0], FORMS[3][0]) * SCRAPERS]
        while exposition._waiting < len(asked):
            pass
        own.go.set()
        bodies = {one.result() for one in asked}
    assert own.asked == len(bodies) == 2
    assert not exposition._bodies


def test_later_snapshot_is_encoded_anew():
    own = Own()
    exposition = Exposition(own)
    assert b" 5\n" in exposition.answer(snapshot(5), Request()).body
    assert b" 6\n" in exposition.answer(snapshot(6), Request()).body


def test_bug_leaves_nothing_behind():
    """The next scrape is answered."""
    own = Own()
    exposition = Exposition(own)
    own.go = None
    with pytest.raises(AttributeError):
        exposition.answer(snapshot(5), Request())
    own.go = threading.Event()
    own.go.set()
    assert exposition.answer(snapshot(5), Request()).status == 200
