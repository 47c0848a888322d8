"""What the validator says to the objects that an API server is asked about in integration/kube/test_admission.py."""

from collections import Counter

import pytest

from dolphin_agent.errors import PolicyError
from dolphin_agent.policy.parse import policy_from_object
from tests.policy.cases import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdict(case):
    """As the table says."""
    if case.validator is None:
        policy_from_object(case.object)
        return
    with pytest.raises(PolicyError) as refused:
        policy_from_object(case.object)
    assert case.validator in str(refused.value)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_judge_alike(case):
    """Where the API server does not, the table says why."""
    assert ((case.validator is None) != (case.server is None)) == bool(case.differs)


def test_names_are_unique():
    """Else one of two could not be told from the other."""
    assert [name for name, count in Counter(map(str, CASES)).items() if count > 1] == []
