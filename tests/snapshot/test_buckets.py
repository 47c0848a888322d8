"""Where a value is counted."""

import math

import pytest

from dolphin_agent.snapshot.buckets import MICROSECONDS, SECONDS


@pytest.mark.parametrize("scale", [MICROSECONDS, SECONDS], ids=["microseconds", "seconds"])
def test_every_value_is_within_its_bucket(scale):
    """Upper bounds are included; what is below the first and above the last has a place all the same."""
    for bucket in range(scale.last):
        bound = scale.upper_bound(bucket)
        assert scale.bucket(bound * 0.999) == bucket
        assert scale.bucket(bound * 1.001) == bucket + 1
    assert scale.bucket(2.0**scale.first) == 0
    assert (scale.bucket(1e-9), scale.bucket(1e9)) == (0, scale.last)
    assert scale.upper_bound(scale.last) == math.inf


def test_seconds_fit_a_probe():
    """From what a round trip inside of a machine takes to more than the longest timeout."""
    assert SECONDS.upper_bound(0) < 16e-6
    assert SECONDS.upper_bound(SECONDS.last - 1) == 8
