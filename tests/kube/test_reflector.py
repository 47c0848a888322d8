"""The order of requests and what becomes of events, with an API server that follows a script."""

import threading

import pytest

from dolphin_agent.errors import KubeError
from dolphin_agent.kube import reflector
from dolphin_agent.kube.reflector import Reflector, Resource

PODS = Resource("pods", "/api/v1/pods", absent="; install it")


def item(name="a", version=1, uid="u1", value=0):
    """An object as lists and events have it."""
    return {
        "metadata": {"namespace": "default", "name": name, "uid": uid, "resourceVersion": str(version)},
        "value": value,
    }


def event(kind, *args, **fields):
    return {"type": kind, "object": item(*args, **fields)}


def page(*items, version="10", **metadata):
    return {"items": list(items), "metadata": {"resourceVersion": version, **metadata}}


class Script:
    """Answers requests from two lists; when one is used up it says that it is done and waits."""

    def __init__(self, lists, watches):
        self.lists, self.watches = list(lists), list(watches)
        self.asked = []
        self.done = threading.Event()

    def get(self, _path, query):
        self.asked.append(("list", query.get("resourceVersion"), query.get("continue")))
        return self._next(self.lists)

    def watch(self, _path, query, _silence):
        self.asked.append(("watch", query["resourceVersion"], None))
        events = self._next(self.watches)
        yield {}
        for one in events:
            if isinstance(one, Exception):
                raise one
            yield one

    def _next(self, answers):
        if not answers:
            self.done.set()
            threading.Event().wait(5)
            raise KubeError("the script is over")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(reflector, "DELAYS", (0.01,))


def run(lists, watches):
    """What was asked, and the reflector after the script's end."""
    script = Script(lists, watches)
    made = Reflector(script, PODS, lambda found: found["value"], lambda: None)
    made.start()
    assert script.done.wait(5)
    made.stop()
    return script.asked, made


def test_list_then_watch_from_there():
    asked, made = run([page(item())], [[event("ADDED", "b", 11, "u2", value=2)]])
    assert asked == [("list", "0", None), ("watch", "10", None), ("watch", "11", None)]
    assert made.view.objects == {"default/a": 0, "default/b": 2}
    assert (made.view.synced, made.view.problem) == (True, "")


def test_pages():
    asked, made = run([page(item("a"), **{"continue": "x"}), page(item("b"), version="12")], [])
    assert asked == [("list", "0", None), ("list", None, "x"), ("watch", "12", None)]
    assert made.view.objects == {"default/a": 0, "default/b": 0}


def test_bookmark_moves_on():
    asked, _ = run([page()], [[{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "50"}}}]])
    assert asked[-1] == ("watch", "50", None)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event("MODIFIED", version=11, value=1)], {"default/a": 1}),
        ([event("MODIFIED", version=12, value=2), event("MODIFIED", version=11, value=1)], {"default/a": 2}),
        ([event("MODIFIED", version=12, value=2), event("MODIFIED", version=12, value=2)], {"default/a": 2}),
        ([event("DELETED", version=11)], {}),
        ([event("DELETED", version=11), event("DELETED", version=11)], {}),
        ([event("DELETED", version=11, uid="another")], {"default/a": 0}),
        ([event("ADDED", version=12, uid="u2", value=2), event("DELETED", version=11)], {"default/a": 2}),
        ([event("DELETED", version=11), event("ADDED", version=12, uid="u2", value=2)], {"default/a": 2}),
    ],
    ids=["changed", "out of order", "twice", "deleted", "deleted twice", "other uid", "late delete", "recreated"],
)
def test_events(events, expected):
    _, made = run([page(item(version=5))], [events])
    assert made.view.objects == expected


@pytest.mark.parametrize(
    "gone",
    [KubeError("too old", status=410), {"type": "ERROR", "object": {"code": 410, "message": "too old"}}],
    ids=["answer", "event"],
)
def test_expired_lists_anew(gone):
    """Without a word, and the latest: what is in the server's memory may be older than what was seen."""
    asked, made = run([page(item()), page(item(value=7), version="90")], [[gone]])
    assert asked == [("list", "0", None), ("watch", "10", None), ("list", None, None), ("watch", "90", None)]
    assert (made.view.objects, made.view.problem) == ({"default/a": 7}, "")


def test_broken_watch_goes_on_where_it_was():
    asked, made = run([page(item())], [[event("MODIFIED", version=11, value=1), KubeError("reset")]])
    assert asked[-1] == ("watch", "11", None)
    assert made.view.objects == {"default/a": 1}


def test_what_is_known_holds_in_failure():
    asked, made = run([page(item())], [KubeError("no answer"), KubeError("no answer")])
    assert [what for what, _, _ in asked] == ["list", "watch", "watch", "watch"]
    assert made.view.objects == {"default/a": 0}
    assert made.view.problem.startswith("pods: no answer; what was last known of them holds (since ")


def test_problem_ends():
    _, made = run([KubeError("away"), page(item())], [[]])
    assert (made.view.synced, made.view.problem) == (True, "")


def test_missing_kind():
    """Nothing is known, and what to do is said."""
    seen = []
    script = Script([KubeError("no such resource", status=404)], [])
    made = Reflector(script, PODS, lambda found: found, lambda: seen.append(made.view.problem))
    made.start()
    assert script.done.wait(5)
    assert seen[0].startswith("pods: no such resource; install it; none is known yet")


def test_server_decides_how_long_to_wait(monkeypatch):
    waits = []
    monkeypatch.setattr(reflector, "DELAYS", (2.0, 4.0, 8.0, 15.0))
    made = Reflector(None, PODS, None, lambda: None)
    monkeypatch.setattr(made._stop, "wait", waits.append)
    made._failed(KubeError("busy", status=429, retry_after=7), 0)
    made._failed(KubeError("busy", status=429, retry_after=9000), 0)
    for _ in range(5):
        made._failed(KubeError("away"), 0)
    assert waits[0] == 7
    assert waits[1] == reflector.LONGEST_WAIT
    assert all(15 <= wait <= 22.5 for wait in waits[-3:])
    made._failed(KubeError("away"), reflector.STABLE_SECONDS + 1)
    assert 2 <= waits[-1] <= 3, "a watch that lasted ends a row of failures"
