"""The buckets of a distribution, as ebpf/rtt.bpf.c fills them: four to an octave, upper bounds included.

Bucket 0 holds what is at most 16 us, bucket i what is above 2^(4 + (i - 1)/4) and at most 2^(4 + i/4) us, the last one
what is above 2^26 us. Buckets 1 to 88 are those of an OpenTelemetry exponential histogram of scale 2.
"""

from __future__ import annotations

import math

FIRST_OCTAVE = 4
LAST_OCTAVE = 26
PER_OCTAVE = 4
LAST = (LAST_OCTAVE - FIRST_OCTAVE) * PER_OCTAVE + 1
"""The bucket without an upper bound."""


def upper_bound(bucket: int) -> float:
    """The largest value in a bucket, in microseconds; infinite for the last."""
    return math.inf if bucket >= LAST else 2.0 ** (FIRST_OCTAVE + bucket / PER_OCTAVE)
