"""The ledger: totals only grow, and every series has its own zero."""

import pytest

from dolphin_agent.bpf.flow_tables import Limits
from dolphin_agent.bpf.layouts import Family, Kind
from dolphin_agent.bpf.tables import WORDS_PER_SLOT, word
from dolphin_agent.probes.engine import Drain
from dolphin_agent.probes.plan import make_plan
from dolphin_agent.snapshot.ledger import Ledger
from tests.builders import backend, policy

WEB = backend("web", 1, {"app": "web"})
DB = backend("db", 2)


def counts(kind=Kind.IP_RECEIVE, family=Family.IPV4, packets=0, size=0):
    """One backend's drained words."""
    words = [0] * WORDS_PER_SLOT
    words[word(kind, family)] = packets
    words[word(kind, family) + 1] = size
    return words


def values(ledger, metric="dolphin_ip_receive_packets_total", family="ipv4"):
    """task/pod -> value of one metric."""
    return {
        (labels["task"], labels["pod"]): point.value
        for found in ledger.snapshot(9.0).families
        if found.metric.name == metric
        for point in found.points
        if (labels := dict(point.labels))["ipfamily"] == family
    }


def credit(ledger, pods):
    """Adds a drain that has no flows."""
    ledger.credit(Drain(pods=pods), 5.0)


@pytest.fixture
def ledger():
    """One policy over two pods, started at 1.0."""
    made = Ledger(Limits(), idle_seconds=300.0)
    made.follow(make_plan([policy("a")], [WEB, DB]).series, 1.0)
    return made


def test_drains_add_up(ledger):
    """Packets and bytes of each drain are added to the pod's own series."""
    credit(ledger, {WEB.key: counts(packets=3, size=300)})
    credit(ledger, {WEB.key: counts(packets=4, size=400), DB.key: counts(packets=1)})
    assert values(ledger) == {("kube-system/a", "default/web"): 7, ("kube-system/a", "default/db"): 1}
    assert values(ledger, "dolphin_ip_receive_bytes_total")["kube-system/a", "default/web"] == 700


def test_families_are_apart(ledger):
    """IPv6 traffic shows under ipfamily="ipv6" only."""
    credit(ledger, {WEB.key: counts(family=Family.IPV6, packets=5)})
    assert values(ledger)["kube-system/a", "default/web"] == 0
    assert values(ledger, family="ipv6")["kube-system/a", "default/web"] == 5


def test_series_begin_at_zero(ledger):
    """Both families are there before anything was counted, so that rate() has a start."""
    assert set(values(ledger).values()) == {0}
    assert set(values(ledger, family="ipv6").values()) == {0}


def test_later_policy_starts_at_zero_and_leaves_the_first_alone(ledger):
    """Two tasks share the kernel's count; the later one's series is the increase since it came."""
    credit(ledger, {WEB.key: counts(packets=10)})
    ledger.follow(make_plan([policy("a"), policy("b")], [WEB, DB]).series, 2.0)
    credit(ledger, {WEB.key: counts(packets=5)})
    found = values(ledger)
    assert (found["kube-system/a", "default/web"], found["kube-system/b", "default/web"]) == (15, 5)
    starts = {dict(p.labels)["task"]: p.start for p in ledger.snapshot(9.0).families[0].points}
    assert starts == {"kube-system/a": 1.0, "kube-system/b": 2.0}


def test_removed_series_leave_and_return_at_zero(ledger):
    """A policy that comes back has a new start and counts from there."""
    credit(ledger, {WEB.key: counts(packets=10)})
    ledger.follow((), 2.0)
    assert ledger.snapshot(9.0).families == ()
    ledger.follow(make_plan([policy("a")], [WEB]).series, 3.0)
    credit(ledger, {WEB.key: counts(packets=1)})
    assert values(ledger) == {("kube-system/a", "default/web"): 1}


def test_changed_pod_label_is_a_new_series_from_that_moment(ledger):
    """Other label values start at zero; nothing counted before is moved under them."""
    asked = policy("a", pod_labels=("app",))
    ledger.follow(make_plan([asked], [WEB]).series, 2.0)
    credit(ledger, {WEB.key: counts(packets=10)})
    relabelled = backend("web", 1, {"app": "new"})
    ledger.follow(make_plan([asked], [relabelled]).series, 3.0)
    credit(ledger, {WEB.key: counts(packets=2)})
    assert values(ledger) == {("kube-system/a", "default/web"): 2}


def test_restarted_sandbox_is_another_series(ledger):
    """The same pod in another namespace starts at zero; what still arrives for the old one is not its."""
    credit(ledger, {WEB.key: counts(packets=10)})
    restarted = backend("web", 7)
    ledger.follow(make_plan([policy("a")], [restarted]).series, 2.0)
    credit(ledger, {WEB.key: counts(packets=100), restarted.key: counts(packets=1)})
    assert values(ledger) == {("kube-system/a", "default/web"): 1}


def test_directions_carry_their_label(ledger):
    """New connections are one metric with a label for the direction."""
    ledger.follow(make_plan([policy("c", items=("tcpNewConnection",))], [WEB]).series, 2.0)
    credit(ledger, {WEB.key: counts(Kind.TCP_OPEN_OUTBOUND, packets=4)})
    family = ledger.snapshot(9.0).families[0]
    assert {(dict(p.labels)["direction"], dict(p.labels)["ipfamily"]): p.value for p in family.points} == {
        ("inbound", "ipv4"): 0,
        ("inbound", "ipv6"): 0,
        ("outbound", "ipv4"): 4,
        ("outbound", "ipv6"): 0,
    }


def test_kind_that_is_not_counted_has_no_series(ledger):
    """A zero would claim that nothing happened where the kernel refused every hook."""
    ledger.follow(
        make_plan([policy("c", items=("ipReceive", "tcpNewConnection"))], [WEB]).series, 2.0, [Kind.TCP_OPEN_INBOUND]
    )
    (family,) = ledger.snapshot(9.0).families
    assert {dict(point.labels)["direction"] for point in family.points} == {"inbound"}


def named(ledger):
    """pod -> value of all series, each once."""
    points = [point for found in ledger.snapshot(9.0).families for point in found.points]
    labels = [(found.metric.name, point.labels) for found in ledger.snapshot(9.0).families for point in found.points]
    assert len(set(labels)) == len(labels), "two series with the same labels"
    return {dict(point.labels)["pod"] for point in points}


def test_pod_that_is_gone_lingers_with_its_last_values(ledger):
    """What still arrives for it is counted; then it is forgotten, and its totals with it."""
    credit(ledger, {WEB.key: counts(packets=10), DB.key: counts(packets=1)})
    ledger.follow(make_plan([policy("a")], [DB]).series, 2.0, gone={WEB.key})
    credit(ledger, {WEB.key: counts(packets=3), DB.key: counts(packets=1)})
    expected = {("kube-system/a", "default/web"): 13, ("kube-system/a", "default/db"): 2}
    assert values(ledger) == expected
    ledger.release(1.9)
    ledger.follow(make_plan([policy("a")], [DB]).series, 3.0, gone={WEB.key})
    assert values(ledger) == expected, "a later plan changes nothing"
    assert ledger.backends == {WEB.key, DB.key}
    ledger.release(2.0)
    assert values(ledger) == {("kube-system/a", "default/db"): 2}
    assert ledger.backends == {DB.key}


def test_last_pod_lingers_though_nothing_is_counted_any_more(ledger):
    """With the last pod all programs go; what they counted is still true."""
    credit(ledger, {WEB.key: counts(packets=10)})
    ledger.follow((), 2.0, kinds=(), gone={WEB.key, DB.key})
    assert values(ledger)["kube-system/a", "default/web"] == 10
    ledger.release(2.0)
    assert ledger.snapshot(9.0).families == ()
    assert ledger.backends == set()


@pytest.mark.parametrize("returned", [WEB, backend("web", 7), backend("web", 1, {}, 1)], ids=["same", "netns", "again"])
def test_pod_that_returns_ends_the_lingering(ledger, returned):
    """One series under its labels, at zero, with a start of its own."""
    credit(ledger, {WEB.key: counts(packets=10)})
    ledger.follow(make_plan([policy("a")], [DB]).series, 2.0, gone={WEB.key})
    ledger.follow(make_plan([policy("a")], [DB, returned]).series, 3.0, gone={WEB.key} - {returned.key})
    assert named(ledger) == {"default/web", "default/db"}
    credit(ledger, {returned.key: counts(packets=2)})
    assert values(ledger)["kube-system/a", "default/web"] == 2
    starts = {dict(p.labels)["pod"]: p.start for p in ledger.snapshot(9.0).families[0].points}
    assert starts == {"default/web": 3.0, "default/db": 1.0}
    ledger.release(9.0)
    assert values(ledger)["kube-system/a", "default/web"] == 2


def test_pod_with_other_labels_lingers_beside_the_new_one(ledger):
    """Other labels are another series."""
    asked = policy("a", pod_labels=("app",))
    ledger.follow(make_plan([asked], [WEB]).series, 2.0)
    other = backend("web", 7, {"app": "new"})
    ledger.follow(make_plan([asked], [other]).series, 3.0, gone={WEB.key})
    assert {dict(p.labels)["app"] for p in ledger.snapshot(9.0).families[0].points} == {"web", "new"}


def test_pod_that_returns_with_other_labels_ends_the_lingering(ledger):
    """What it counts from now on is not added to what was its last value."""
    asked = policy("a", pod_labels=("app",))
    ledger.follow(make_plan([asked], [WEB]).series, 2.0)
    ledger.follow((), 3.0, gone={WEB.key})
    ledger.follow(make_plan([asked], [backend("web", 1, {"app": "new"})]).series, 4.0)
    assert {dict(p.labels)["app"] for p in ledger.snapshot(9.0).families[0].points} == {"new"}


def test_pod_that_is_not_selected_any_more_does_not_linger(ledger):
    """It lives: its series ends with the wish for it."""
    ledger.follow(make_plan([policy("a")], [DB]).series, 2.0)
    assert named(ledger) == {"default/db"}
