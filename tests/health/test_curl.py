"""Requests, and responses that come in pieces or not at all."""

from http.client import HTTPException, HTTPResponse
from io import BytesIO

import pytest

from dolphin_agent.health.curl import ENOUGH, Response, plain_head, request
from dolphin_agent.policy.vocabulary import IPFamily
from tests.builders import check

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\nx\r\n\r\ny\r\n0\r\n\r\n"
UNTIL_END = OK + b"\r\nhello"


def received(*pieces):
    """(whether it is whole, whether it is good) after all pieces."""
    response = Response()
    is_whole = False
    for piece in pieces:
        is_whole = response.add(piece)
    return is_whole, is_whole and response.is_good


def test_request():
    sent = request(check(port=8080, path="/healthz?a=b")).decode()
    assert sent.startswith("GET /healthz?a=b HTTP/1.1\r\nHost: 10.0.0.7:8080\r\n")
    assert "\r\nConnection: close\r\n" in sent
    assert sent.endswith("\r\n\r\n")
    assert "\r\nHost: [fd00::7]:80\r\n" in request(check(family=IPFamily.IPV6, address="fd00::7", port=80)).decode()


@pytest.mark.parametrize("whole", [LENGTH, CHUNKED, OK + b"Content-Length: 0\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n"])
def test_whole_before_the_connection_ends(whole):
    """Byte by byte: whole with the last one, and not before."""
    response = Response()
    assert [response.add(whole[at : at + 1]) for at in range(len(whole))] == [False] * (len(whole) - 1) + [True]
    assert response.is_good


def test_body_until_the_end_of_the_connection():
    assert received(UNTIL_END) == (False, False)
    assert received(UNTIL_END, b"") == (True, True)
    assert received(b"HTTP/1.0 200 OK\r\n\r\n", b"") == (True, True)


@pytest.mark.parametrize(("status", "is_good"), [(200, True), (302, True), (399, True), (400, False), (500, False)])
def test_status(status, is_good):
    assert received(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()) == (True, is_good)


@pytest.mark.parametrize("whole", [LENGTH, CHUNKED, OK + b"\r\n"], ids=["length", "chunked", "head"])
def test_half_a_response(whole):
    """Cut short anywhere, then the end of the connection."""
    for length in range(len(whole)):
        with pytest.raises(HTTPException):
            received(whole[:length] or b"", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"\r\n\r\n",
        b"\x00\xff\r\n\r\n",
        b"HTTP/9 200\r\n\r\n",
    ],
)
def test_no_response(data):
    with pytest.raises(HTTPException):
        received(data)


def test_chunks_that_are_none():
    """Taken for half a response: more may come until the time is up."""
    assert received(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n") == (False, False)


def test_response_without_end():
    """Enough of it is enough; enough without any head is not good."""
    assert received(OK + b"Content-Length: 9999999\r\n\r\n", bytes(ENOUGH)) == (True, True)
    assert received(bytes(ENOUGH)) == (True, False)


class Received:
    """What http.client takes for a socket."""

    def __init__(self, data):
        self._data = data

    def makefile(self, _):
        return BytesIO(self._data)


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Content-Length: 5\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\nServer: a\r\ncontent-length:17 \r\nDate: today\r\n\r\n",
        b"HTTP/1.1 302\r\nLocation: http://a/?content-length: 3\r\nCONTENT-LENGTH:\t0\r\n\r\n",
        b"HTTP/1.1 500 Content-Length: 9\r\nContent-Length: 3\r\nX-Content-Length: 4\r\n\r\n",
    ],
)
def test_plain_head_is_judged_as_by_http_client(head):
    judged = HTTPResponse(Received(head))
    judged.begin()
    assert plain_head(head) == (judged.status, judged.length, judged.chunked)


@pytest.mark.parametrize(
    "head",
    [
        OK + b"\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Content-Length: 5\r\n 6\r\n\r\n",
        OK + b"Content-Length: -5\r\n\r\n",
        OK + b"Content-Length: five\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_other_heads_are_left_to_http_client(head):
    assert plain_head(head) is None
