"""The buckets of a distribution: four to an octave, upper bounds included.

They are those of an OpenTelemetry exponential histogram of scale 2 and of Prometheus's native histogram of schema 2,
but for the first and the last one, which have no end below and above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PER_OCTAVE = 4


@dataclass(frozen=True)
class Scale:
    """Where buckets begin and end.

    Bucket 0 holds what is at most 2^first, bucket i what is above 2^(first + (i - 1)/4) and at most 2^(first + i/4),
    the last one what is above 2^end.
    """

    first: int
    end: int

    @property
    def last(self) -> int:
        """The bucket without an upper bound."""
        return (self.end - self.first) * PER_OCTAVE + 1

    def upper_bound(self, bucket: int) -> float:
        """The largest value in a bucket; infinite for the last."""
        return math.inf if bucket >= self.last else 2.0 ** (self.first + bucket / PER_OCTAVE)

    def bucket(self, value: float) -> int:
        """The one that a positive value is in."""
        return min(max(0, math.ceil((math.log2(value) - self.first) * PER_OCTAVE)), self.last)


MICROSECONDS = Scale(4, 26)
"""16 us to 67 s, as ebpf/rtt.bpf.c fills them."""

SECONDS = Scale(-16, 3)
"""15 us to 8 s."""
