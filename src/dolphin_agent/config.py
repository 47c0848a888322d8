"""Settings: each is a flag, an environment variable `DOLPHIN_<NAME>` and a key of the `--config` YAML file.

A flag wins over the environment, the environment over the file, the file over the default.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from dolphin_agent import log
from dolphin_agent.errors import ConfigError
from dolphin_agent.manifests.names import SUBDOMAIN_RULE, is_subdomain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

PREFIX = "DOLPHIN_"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_PORT = 65535
MAX_FLOWS = 1_000_000


def duration(text: str) -> float:
    """Seconds, from `500ms`, `10s`, `5m` or `1h`. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if not found or (seconds := float(found[1]) * _SECONDS[found[2]]) <= 0:
        raise ValueError("allowed: a positive number with a unit, such as 500ms, 10s, 5m, 1h")
    return seconds


def address(text: str) -> tuple[str, int]:
    """Host and port, from `0.0.0.0:10001` or `[::]:10001`. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= MAX_PORT:
        raise ValueError("allowed: HOST:PORT, such as 0.0.0.0:10001 or [::]:10001")
    return host.strip("[]"), int(port)


def url(text: str) -> str:
    """An endpoint, `http://collector:4318`. Raises ValueError."""
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("allowed: http://HOST:PORT or https://HOST:PORT, such as http://collector:4318")
    return text.strip()


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number within bounds. Raises ValueError."""

    def parse(text: str) -> int:
        if not text.strip().isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"allowed: a whole number from {low} to {high}")
        return int(text)

    return parse


def one_of(*allowed: str) -> Callable[[str], str]:
    """A word out of a list. Raises ValueError."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")
        return text

    return parse


def node(text: str) -> str:
    """A node's name. Raises ValueError."""
    if not is_subdomain(text):
        raise ValueError(f"allowed: {SUBDOMAIN_RULE}")
    return text


def boolean(text: str) -> bool:
    """`true` or `false`. Raises ValueError."""
    return one_of("true", "false")(text.lower()) == "true"


def setting(default: Any, parse: Callable[[str], Any], help_text: str, metavar: str = "") -> Any:  # noqa: ANN401
    """A dataclass field that carries how its text is parsed and explained."""
    return dataclasses.field(default=default, metadata={"parse": parse, "help": help_text, "metavar": metavar})


@dataclass(frozen=True)
class Config:
    """What `dolphin-agent run` runs with."""

    standalone: bool = setting(default=False, parse=boolean, help_text="run without Kubernetes")
    policies: Path | None = setting(None, Path, "standalone: directory of MonitorPolicy YAML files", "DIR")
    pods: Path | None = setting(None, Path, "standalone: YAML file of Pod manifests", "FILE")
    kubeconfig: Path | None = setting(None, Path, "outside of the cluster: how to reach its API server", "FILE")
    node_name: str | None = setting(None, node, "the node's name in Kubernetes (NODE_NAME)", "NAME")
    proc_root: Path = setting(Path("/proc"), Path, "where the node's /proc is mounted (/proc)", "DIR")
    listen: tuple[str, int] = setting(("0.0.0.0", 10001), address, "metrics address (0.0.0.0:10001)", "HOST:PORT")  # noqa: S104 - Prometheus scrapes from other nodes
    otlp_endpoint: str | None = setting(None, url, "where metrics are pushed to by OTLP", "URL")
    collect_interval: float = setting(10.0, duration, "how often counters are drained at least (10s)", "TIME")
    max_flows: int = setting(20_000, whole(1, MAX_FLOWS), "flows kept in detail on the node (20000)", "N")
    flow_idle_timeout: float = setting(300.0, duration, "when a silent flow's counts go to `other` (5m)", "TIME")
    flow_ports: str = setting("service", one_of("service", "all"), "service: fold ephemeral ports; all", "WHICH")
    log_level: str = setting("info", one_of(*log.LEVELS), "debug, info, warning or error (info)", "LEVEL")
    log_format: str = setting("json", one_of(*log.FORMATS), "json or console (json)", "FORMAT")


ALIASES = {"node_name": ("NODE_NAME",)}
"""Other environment variables that give a setting: what users of DaemonSets are used to."""

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares every setting as a flag."""
    for name, field in FIELDS.items():
        flag = "--" + name.replace("_", "-")
        if field.metadata["parse"] is boolean:
            parser.add_argument(flag, action="store_const", const="true", help=field.metadata["help"])
        else:
            parser.add_argument(flag, metavar=field.metadata["metavar"], help=field.metadata["help"])
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these, such as `log-level: debug`")


def load(arguments: Mapping[str, str | None], environment: Mapping[str, str] = os.environ) -> Config:
    """The settings in force. Raises ConfigError naming the setting, where it was set, and what is allowed."""
    texts: dict[str, tuple[str, str]] = {}
    path = arguments.get("config") or environment.get(f"{PREFIX}CONFIG")
    if path:
        texts |= {name: (text, f"{path}: {name}") for name, text in _read_file(path).items()}
    for name in FIELDS:
        variable = PREFIX + name.upper()
        for known in (*ALIASES.get(name, ()), variable):
            if known in environment:
                texts[name] = (environment[known], known)
        if (given := arguments.get(name)) is not None:
            texts[name] = (given, "--" + name.replace("_", "-"))
    values: dict[str, Any] = {}
    for name, (text, origin) in texts.items():
        try:
            values[name] = FIELDS[name].metadata["parse"](text)
        except ValueError as fault:
            raise ConfigError(f'{origin} "{text}": {fault}') from fault
    return _checked(Config(**values))


def _checked(config: Config) -> Config:
    if not config.standalone:
        for flag, value in (("--policies", config.policies), ("--pods", config.pods)):
            if value:
                raise ConfigError(f"{flag} is for --standalone: policies and pods come from the API server without it")
        if not config.node_name:
            raise ConfigError(
                "NODE_NAME is not set: give the pod an environment variable with fieldRef spec.nodeName, or "
                "--node-name NAME; or run without Kubernetes: --standalone --policies DIR --pods FILE"
            )
        return config
    missing = [flag for flag, value in (("--policies DIR", config.policies), ("--pods FILE", config.pods)) if not value]
    if missing:
        raise ConfigError(f"--standalone needs {' and '.join(missing)}")
    return config


def _read_file(path: str) -> dict[str, str]:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(f"--config {path}: {' '.join(str(fault).split())}") from fault
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: allowed: a mapping of settings, such as `log-level: debug`")
    texts = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            meant = f"; did you mean {close[0].replace('_', '-')}?" if close else ""
            known = ", ".join(field.replace("_", "-") for field in FIELDS)
            raise ConfigError(f'--config {path}: unknown setting "{key}"{meant} (known: {known})')
        texts[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return texts
