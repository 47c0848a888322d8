"""What /readyz says."""

from dataclasses import replace

from dolphin_agent.desired import Desired
from dolphin_agent.health.plan import Impossible, plan_checks
from dolphin_agent.pods.model import Pod
from dolphin_agent.policy.model import HealthCheck
from dolphin_agent.policy.vocabulary import Command
from dolphin_agent.probes.engine import EngineStatus
from dolphin_agent.probes.plan import Plan, make_plan
from dolphin_agent.status.describe import describe
from dolphin_agent.status.health import HealthStatus
from tests.builders import backend, policy


def test_pods_without_a_slot_are_named_as_users_know_them():
    """Namespace and name, not the UID."""
    web = backend("web", 1)
    desired = Desired((policy(),), (web,))
    status = describe(desired, make_plan(desired.policies, desired.backends), EngineStatus(without_slot=(web.key,)))
    assert [problem for problem in status.problems if problem.startswith("pod default/web: more pods than the 511")]


def test_health_checks():
    """An impossible check is a problem, told once for all its pods; an unhealthy pod is none."""
    pods = [Pod("default", name, f"uid-{name}", ips=("10.0.0.7",), running=True) for name in ("a", "b", "c")]
    wanted = replace(policy(items=()), health_check=HealthCheck(command=Command.ARPING))
    plan = plan_checks([wanted, replace(wanted, name="another")], pods)
    ruled_out = tuple(Impossible(wanted.task, f"default/{name}", "no way") for name in ("a", "b"))
    desired = Desired((wanted, replace(wanted, name="another")))
    status = describe(desired, Plan(), EngineStatus(), plan._replace(impossible=ruled_out))
    assert status.problems == ("healthCheck: no way",)
    assert status.tasks == {wanted.task: 3, "kube-system/another": 3}
    other, mine = status.policies
    assert other.health == HealthStatus("arping", 3, "")
    assert mine.health == HealthStatus("arping", 3, "no way (pod default/a and 1 more)")
    assert describe(desired, Plan(), EngineStatus(), plan).problems == ()
