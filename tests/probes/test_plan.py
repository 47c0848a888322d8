"""The plan: what is counted for whom is a pure function of policies and pods."""

from dolphin_agent.bpf.layouts import Kind
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME, SERVICE_PORTS
from dolphin_agent.probes.plan import Plan, make_plan
from tests.builders import backend, policy

WEB = backend("web", 1, {"app": "web"})
DB = backend("db", 2, {"app": "db"})


def bits(*kinds):
    """Kinds as a word of wants."""
    return sum(kind.counted for kind in kinds)


def test_nobody_asks_for_anything():
    """No policy, or a policy that selects no pod: an empty plan, so that nothing is loaded."""
    assert make_plan([], [WEB, DB]) == Plan()
    assert make_plan([policy(select={"app": "none"})], [WEB, DB]) == Plan()


def test_only_selected_pods_are_wanted():
    """A pod that no selector matches appears nowhere."""
    plan = make_plan([policy(select={"app": "web"})], [WEB, DB])
    assert plan.wants == {WEB.key: bits(Kind.IP_RECEIVE)}
    assert [one.pod for one in plan.series] == ["default/web"]


def test_two_policies_over_one_pod_count_once_and_have_a_series_each():
    """The wants are the union; the series are apart."""
    plan = make_plan([policy("a"), policy("b", items=("ipReceive", "tcpNewConnection"))], [WEB])
    assert plan.wants == {WEB.key: bits(Kind.IP_RECEIVE, Kind.TCP_OPEN_INBOUND, Kind.TCP_OPEN_OUTBOUND)}
    assert [(one.task, one.item) for one in plan.series] == [
        ("kube-system/a", "ipReceive"),
        ("kube-system/b", "ipReceive"),
        ("kube-system/b", "tcpNewConnection"),
    ]


def test_ladders_are_those_of_the_items_wanted():
    """An item nobody wants is not climbed for."""
    assert make_plan([policy(items=("ipSend",))], [WEB]).ladders == BY_NAME["ipSend"].ladders


def test_pod_labels_are_copied_and_absent_ones_say_so():
    """`podLabel` keys become labels of the series."""
    plan = make_plan([policy(pod_labels=("app", "tier"))], [WEB])
    assert plan.series[0].labels == (("app", "web"), ("tier", "not found"))


def test_flow_granularity_is_wanted_beside_the_pods():
    """A kind that one task wants per flow is counted per flow, whoever else wants it per pod; others are not."""
    asked = policy("flows", items=("ipReceive", "tcpRtt"), granularity=Granularity.FLOW)
    plan = make_plan([asked, policy("pods", items=("ipReceive", "ipSend"))], [WEB])
    per_flow = Kind.IP_RECEIVE.per_flow | Kind.TCP_RTT.per_flow
    assert plan.wants == {WEB.key: bits(Kind.IP_RECEIVE, Kind.IP_SEND, Kind.TCP_RTT) | per_flow}
    assert len(plan.series) == 4


def test_service_ports_are_learnt_for_flows_only():
    """Nothing watches connections for policies at pod granularity, or where all ports are kept."""
    flows = [policy(granularity=Granularity.FLOW)]
    assert SERVICE_PORTS in make_plan(flows, [WEB]).ladders
    assert SERVICE_PORTS not in make_plan(flows, [WEB], fold_ports=False).ladders
    assert SERVICE_PORTS not in make_plan([policy()], [WEB]).ladders


def test_addresses_are_known_where_drops_are_wanted():
    """Of the pods selected, and only there: the node's namespace is looked at for nothing else."""
    web, db = backend("web", 1, {"app": "web"}, ips=("10.0.0.7", "fd00::7")), backend("db", 2, ips=("10.0.0.8",))
    plan = make_plan([policy(items=("ipDrop",), select={"app": "web"}), policy("b")], [web, db], node=9)
    assert (plan.addresses, plan.node) == ({"10.0.0.7": 1, "fd00::7": 1}, 9)
    plan = make_plan([policy("b")], [web, db], node=9)
    assert (plan.addresses, plan.node) == ({}, 0)
