"""The HTTP endpoint."""

import select
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from dolphin_agent.errors import ListenError
from dolphin_agent.export.http import CONNECTIONS, PATIENCE, SLOW, UNSENT_BYTES, Endpoint, Response


def get(port, path):
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as fault:
        return fault.code, fault.headers["Content-Type"], fault.read()


begun = threading.Semaphore(0)
"""Raised by each request for /slow."""


def broken(_):
    """A route with a bug."""
    raise ValueError("bug")


@pytest.fixture
def large():
    """What /large answers: one after the other, and for ever the last of them."""
    return [Response(bytes(UNSENT_BYTES // 2 + 1), content_type=str(number)) for number in range(3)]


@pytest.fixture
def port(large):
    """A served endpoint."""
    over = threading.Event()

    def slow(_):
        begun.release()
        over.wait(10)
        return Response(b"late")

    def big(_):
        begun.release()
        return large.pop(0) if len(large) > 1 else large[0]

    routes = {
        "/a": lambda _: Response(b"hello", content_type="text/x"),
        "/broken": broken,
        "/slow": slow,
        "/large": big,
    }
    with Endpoint(("127.0.0.1", 0), routes) as endpoint:
        yield endpoint.port
        over.set()


def test_path_is_answered_by_its_function_whatever_the_query(port):
    """Prometheus may add parameters."""
    assert get(port, "/a?x=1") == (200, "text/x", b"hello")


def test_unknown_path_lists_the_known_ones(port):
    """A mistyped path helps itself."""
    assert get(port, "/metricz")[0::2] == (404, b"not found; there are /a /broken /slow /large\n")


def test_bug_in_one_path_is_an_answer_and_ends_nothing(port):
    """500, and the next request is served."""
    assert get(port, "/broken")[0] == 500
    assert get(port, "/a")[0] == 200


def test_taken_address_is_named_with_the_remedy(port):
    """The second listener says which address and what to do."""
    with pytest.raises(ListenError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use; .*--listen"):
        Endpoint(("127.0.0.1", port), {})


def test_patient_endpoint_serves_as_soon_as_the_address_is_free():
    """Until then it says what is in its way; that it never could end is no fault."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        with Endpoint(("127.0.0.1", number), {}, patient=True) as never:
            assert "Address already in use" in never.problem
        endpoint = Endpoint(("127.0.0.1", number), {"/a": lambda _: Response(b"hello")}, patient=True)
        endpoint.retry()
        assert "Address already in use" in endpoint.problem
    with endpoint:
        endpoint.retry()
        assert not endpoint.problem
        assert get(number, "/a")[2] == b"hello"


def connect(port):
    """A connection that has said nothing yet."""
    return socket.create_connection(("127.0.0.1", port), 5)


def test_silent_connections_make_room_for_others(port):
    """The oldest of them ends first; one that is served is left alone while there are such."""
    with ExitStack() as stack:
        held = [stack.enter_context(connect(port)) for _ in range(CONNECTIONS + 2)]
        assert get(port, "/a")[0] == 200
        assert [one.recv(1) for one in held[:3]] == [b""] * 3, "they were ended"
        held[3].sendall(b"GET /a HTTP/1.0\r\n\r\n")
        assert held[3].recv(1000).startswith(b"HTTP/1.0 200")


def test_unfinished_answers_are_bounded_too(port):
    """A client ends when there are too many that have asked: whose request was the first to be read."""
    with ExitStack() as stack:
        held = [stack.enter_context(connect(port)) for _ in range(CONNECTIONS)]
        for one in held:
            one.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        for _ in held:
            assert begun.acquire(timeout=5)
        assert get(port, "/a")[0] == 200
        ended, _, _ = select.select(held, [], [], 5)
        assert [one.recv(1) for one in ended] == [b""]


def ask(port, path, buffer=4096):
    """A client that asks; its receive buffer, in bytes, is small, so that it is the endpoint that waits."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(5)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    return client


def is_cut(client, size, pace=None):
    """Whether the answer ends before its length; a pace is bytes, and seconds until the next ones."""
    room, pause = pace or (1 << 20, 0)
    received = 0
    try:
        while part := client.recv(room):
            received += len(part)
            time.sleep(pause)
    except ConnectionResetError:
        return True
    return received < size


def test_slow_readers_of_large_answers_make_room(port, large):
    """Who wants one more waits a moment, and costs those who make no progress theirs; small answers do not wait."""
    size = len(large[0].body)
    with ExitStack() as stack:
        slow = stack.enter_context(ask(port, "/large"))
        assert begun.acquire(timeout=5)
        time.sleep(0.1)  # it is being sent
        other = stack.enter_context(ask(port, "/large"))
        assert get(port, "/a")[0] == 200
        assert not begun.acquire(timeout=PATIENCE / 2), "it is made while there is no room"
        assert not is_cut(other, size)
        assert is_cut(slow, size)


def test_who_reads_on_is_not_ended(port, large):
    """However long others wait for it."""
    size = len(large[0].body)
    with ExitStack() as stack:
        steady = stack.enter_context(ask(port, "/large", SLOW // 4))
        assert begun.acquire(timeout=5)
        time.sleep(0.1)
        other = stack.enter_context(ask(port, "/large"))
        began = time.monotonic()
        assert not is_cut(steady, size, pace=(SLOW // 4, 0.08))
        assert time.monotonic() - began > 2 * PATIENCE, "nobody has waited for it"
        assert not is_cut(other, size)


def test_readers_of_one_answer_need_no_more_room(port, large):
    """They do so for the price of one."""
    large[:] = [Response(bytes(UNSENT_BYTES // 2))]
    with ExitStack() as stack:
        same = [stack.enter_context(ask(port, "/large", SLOW)) for _ in range(4)]
        for _ in same:
            assert begun.acquire(timeout=PATIENCE / 2)
        assert not any(is_cut(one, UNSENT_BYTES // 2) for one in same)


@pytest.mark.parametrize("sent", [b"", b"GET /a HTT", b"GET /a HTTP/1.0\r\n\r\n"])
def test_client_that_goes_away_is_no_error(port, sent, capfd):
    """Nothing is printed, whenever it resets the connection."""
    with connect(port) as client:
        client.sendall(sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert get(port, "/a")[0] == 200
    assert capfd.readouterr().err == ""
