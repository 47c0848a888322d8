"""Fixtures of the tests of what the agent exports; they run on this machine, not in a guest."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

from integration.telemetry.collector import Collector
from integration.telemetry.faulty import Faulty
from integration.telemetry.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes through the machine's proxies, and `requests` trusts what it is told to.

    It takes the authorities that these variables name in place of those that a program gives its session.
    """
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name)


class StartCollector(Protocol):
    """Starts a Collector that runs until the test ends."""

    def __call__(
        self,
        *,
        tls: bool = False,
        max_recv_msg_size_mib: int | None = None,
        max_request_body_size: int | None = None,
        prometheus: bool = False,
    ) -> Collector:
        """Options are those of Collector."""


class StartPrometheus(Protocol):
    """Starts a Prometheus that runs until the test ends."""

    def __call__(
        self, *ports: int, path: str = "/metrics", interval: float = 1, native_histograms: bool = False
    ) -> Prometheus:
        """Options are those of Prometheus."""


@pytest.fixture
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartCollector]:
    """Start collectors."""
    with ExitStack() as stack:

        def start(
            *,
            tls: bool = False,
            max_recv_msg_size_mib: int | None = None,
            max_request_body_size: int | None = None,
            prometheus: bool = False,
        ) -> Collector:
            made = Collector(
                tmp_path_factory.mktemp("collector"),
                tls=tls,
                max_recv_msg_size_mib=max_recv_msg_size_mib,
                max_request_body_size=max_request_body_size,
                prometheus=prometheus,
            )
            return stack.enter_context(made)

        yield start


@pytest.fixture
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartPrometheus]:
    """Start servers."""
    with ExitStack() as stack:

        def start(
            *ports: int, path: str = "/metrics", interval: float = 1, native_histograms: bool = False
        ) -> Prometheus:
            work = tmp_path_factory.mktemp("prometheus")
            made = Prometheus(work, *ports, path=path, interval=interval, native_histograms=native_histograms)
            return stack.enter_context(made)

        yield start


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    """An OTLP/HTTP endpoint that fails when told to."""
    with Faulty() as made:
        yield made
