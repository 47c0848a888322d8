"""What /readyz says."""

from dolphin_agent.desired import Desired
from dolphin_agent.probes.engine import EngineStatus
from dolphin_agent.probes.plan import make_plan
from dolphin_agent.status.describe import describe
from tests.builders import backend, policy


def test_pods_without_a_slot_are_named_as_users_know_them():
    """Namespace and name, not the UID."""
    web = backend("web", 1)
    desired = Desired((policy(),), (web,))
    status = describe(desired, make_plan(desired.policies, desired.backends), EngineStatus(without_slot=(web.key,)))
    assert [problem for problem in status.problems if problem.startswith("pod default/web: more pods than the 511")]
