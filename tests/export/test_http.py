"""The HTTP endpoint."""

import urllib.error
import urllib.request

import pytest

from dolphin_agent.errors import ListenError
from dolphin_agent.export.http import Endpoint, Response


def get(port, path):
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as fault:
        return fault.code, fault.headers["Content-Type"], fault.read()


def broken(_):
    """A route with a bug."""
    raise ValueError("bug")


@pytest.fixture
def port():
    """A served endpoint."""
    routes = {"/a": lambda _: Response(b"hello", content_type="text/x"), "/broken": broken}
    with Endpoint(("127.0.0.1", 0), routes) as endpoint:
        yield endpoint.port


def test_path_is_answered_by_its_function_whatever_the_query(port):
    """Prometheus may add parameters."""
    assert get(port, "/a?x=1") == (200, "text/x", b"hello")


def test_unknown_path_lists_the_known_ones(port):
    """A mistyped path helps itself."""
    assert get(port, "/metricz")[0::2] == (404, b"not found; there are /a /broken\n")


def test_bug_in_one_path_is_an_answer_and_ends_nothing(port):
    """500, and the next request is served."""
    assert get(port, "/broken")[0] == 500
    assert get(port, "/a")[0] == 200


def test_taken_address_is_named_with_the_remedy(port):
    """The second listener says which address and what to do."""
    with pytest.raises(ListenError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use; .*--listen"):
        Endpoint(("127.0.0.1", port), {})
