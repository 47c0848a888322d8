"""Every exception the agent raises on purpose.

DolphinError                    anything a user can act on: its text names the thing and the remedy
├── ConfigError                 a flag, environment variable or configuration file
├── PolicyError                 a MonitorPolicy that breaks a rule (carries its faults)
├── PodError                    a pod that cannot be monitored, with the reason
├── BpfError                    the kernel or libbpf said no (carries errno and the verifier's tail)
│   └── UnavailableError        the machine lacks something every program needs (libbpf, BTF, a capability)
├── ProbeError                  a health check that cannot be made on this node, whatever the pod does
├── ListenError                 the metrics port cannot be opened
├── KubeError                   the API server did not answer, or said no (carries the HTTP status)
└── OccupiedError               another agent has this node
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class DolphinError(Exception):
    """Something a user can act on; `str()` is the one line to print."""


class ConfigError(DolphinError):
    """A setting is wrong."""


class PolicyError(DolphinError):
    """A MonitorPolicy breaks one or more rules.

    `faults` holds one printable object per broken rule, in document order.
    """

    def __init__(self, faults: Sequence[object]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(str(fault) for fault in self.faults))


class PodError(DolphinError):
    """A pod cannot be monitored."""


class BpfError(DolphinError):
    """The kernel or libbpf refused something.

    `errno` is positive; `log` is the tail of what libbpf and the verifier said, may be empty.
    """

    def __init__(self, message: str, *, errno: int = 0, log: str = "") -> None:
        self.errno = errno
        self.log = log
        super().__init__(message)


class UnavailableError(BpfError):
    """This machine lacks something that every BPF program needs."""


class ProbeError(DolphinError):
    """A health check cannot be made here, which says nothing about the pod."""


class KubeError(DolphinError):
    """The Kubernetes API server did not answer, or said no.

    `status` is that of HTTP, 0 where there was no answer; `retry_after` is in seconds.
    """

    def __init__(self, message: str, *, status: int = 0, retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        super().__init__(message)


class OccupiedError(DolphinError):
    """Another agent monitors this node."""


class ListenError(DolphinError):
    """The metrics address cannot be listened on."""
