"""spec.healthCheck: an active check of every selected pod."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dolphin_agent.policy.model import HealthCheck
from dolphin_agent.policy.vocabulary import (
    MAX_FAILURE_THRESHOLD,
    MAX_PATH,
    MAX_PERIOD_SECONDS,
    MAX_PORT,
    Command,
    IPFamily,
)

if TYPE_CHECKING:
    from dolphin_agent.policy.field import Field

_DEFAULT = HealthCheck()


def read_health_check(check: Field) -> HealthCheck | None:
    """Read the check; None where it is absent or not enabled. A disabled one has to be right all the same."""
    if check.is_absent:
        return None
    parts = check.fields()
    enable, port = parts["enable"], parts["port"]
    if enable.is_absent:
        enable.fault("missing; must be true or false")
    command = _command(parts["command"])
    if command is Command.CURL and port.is_absent:
        port.fault(f"missing; curl needs a whole number from 1 to {MAX_PORT}")
    wanted = HealthCheck(
        failure_threshold=parts["failureThreshold"].integer(1, MAX_FAILURE_THRESHOLD) or _DEFAULT.failure_threshold,
        period_seconds=parts["periodSeconds"].integer(1, MAX_PERIOD_SECONDS) or _DEFAULT.period_seconds,
        command=command,
        ip_families=_ip_families(parts["ipFamilies"]),
        port=port.integer(1, MAX_PORT),
        path=_path(parts["path"]),
    )
    return wanted if enable.boolean() else None


def _command(command: Field) -> Command:
    found = None if command.is_default else command.choice(Command)
    return found or _DEFAULT.command


def _ip_families(families: Field) -> tuple[IPFamily, ...]:
    if families.value in (None, [], [""]):
        return _DEFAULT.ip_families
    wanted: list[IPFamily] = []
    for entry in families.entries(" and ".join(IPFamily)):
        family = entry.choice(IPFamily)
        if family in wanted:
            entry.fault("listed twice; remove one")
        elif family:
            wanted.append(family)
    return tuple(wanted)


def _path(path: Field) -> str:
    text = None if path.is_default else path.text()
    # Anything else could end the request line early, and say more to the pod than the policy shows.
    if text is not None and (not re.fullmatch(r"/[!-~]*", text) or len(text) > MAX_PATH):
        path.fault(f"must start with / and be at most {MAX_PATH} printable ASCII characters without spaces")
    return text or _DEFAULT.path
