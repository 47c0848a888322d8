"""What becomes of answers that are not as they should be: one clear KubeError, whatever it was."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dolphin_agent.errors import KubeError
from dolphin_agent.kube.access import Access
from dolphin_agent.kube.client import Client, raise_if_error


@contextmanager
def answering(status, body, headers=(), *, length=None):
    """A client of a server that always answers the same; `length` is what it says the body's length is."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    client = Client(Access(f"http://127.0.0.1:{server.server_port}", lambda: "secret"))
    try:
        yield client, seen
    finally:
        client.close()
        server.shutdown()
        server.server_close()
        thread.join()


def test_answer():
    with answering(200, b'{"kind": "Pod"}') as (client, seen):
        assert client.get("/api/v1/pods", {"fieldSelector": "spec.nodeName=n 1"}) == {"kind": "Pod"}
    assert seen == [("/api/v1/pods?fieldSelector=spec.nodeName%3Dn+1", "Bearer secret")]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"a": "\xff\xfe"}', "not JSON"),
        (200, b'{"a": ', "not JSON"),
        (200, b"[1]", "no JSON object"),
        (403, b'{"message": "pods is forbidden"}', "pods is forbidden (403); grant it with the ClusterRole"),
        (401, b'{"message": "Unauthorized"}', "Unauthorized (401); has the ServiceAccount's token expired"),
        (500, b"<html>\n  broken \xff proxy</html>", "<html> broken \ufffd proxy</html> (500)"),
        (502, b"", "no explanation (502)"),
    ],
)
def test_wrong_answers(status, body, expected):
    with answering(status, body) as (client, _), pytest.raises(KubeError) as caught:
        client.get("/x")
    assert expected in str(caught.value)
    assert caught.value.status == (status if status >= 400 else 0)


def test_answer_cut_short():
    with answering(200, b'{"a": 1}', length=100) as (client, _), pytest.raises(KubeError, match="the connection broke"):
        client.get("/x")


@pytest.mark.parametrize(("given", "expected"), [("7", 7.0), ("soon", None), ("-1", None)])
def test_retry_after(given, expected):
    with answering(429, b"{}", [("Retry-After", given)]) as (client, _), pytest.raises(KubeError) as caught:
        client.get("/x")
    assert (caught.value.status, caught.value.retry_after) == (429, expected)


def test_watch_gives_whole_events():
    """An event per line, an empty one first; a last line that is cut is no event."""
    with answering(200, b'{"type": "A"}\n\n{"type": "B"}\n{"type": "C"') as (client, _):
        assert list(client.watch("/x", {}, 5)) == [{}, {"type": "A"}, {"type": "B"}]


def test_watch_of_nonsense():
    with answering(200, b'{"type": "A"}\n\xff\n') as (client, _), pytest.raises(KubeError, match="not JSON"):
        list(client.watch("/x", {}, 5))


def test_nobody_there():
    client = Client(Access("http://127.0.0.1:1", lambda: None))
    with pytest.raises(KubeError, match="cannot be reached: Connection refused"):
        client.get("/x")


def test_token_that_cannot_be_read():
    def token():
        raise PermissionError(13, "Permission denied")

    with pytest.raises(KubeError, match=r"token cannot be read: .*Permission denied"):
        Client(Access("http://127.0.0.1:1", token)).get("/x")


@pytest.mark.parametrize("status", [{"code": 410, "message": "too old"}, {"message": "odd"}, {"code": "x"}, None])
def test_error_event(status):
    with pytest.raises(KubeError) as caught:
        raise_if_error({"type": "ERROR", "object": status})
    assert caught.value.status == (410 if status and status.get("code") == 410 else 0)
