"""The composition root: builds every part, runs the one thread that owns the kernel's state, ends in reverse order.

    policies, pods --Desired--> plan --> engine (kernel) --counts--> ledger --Snapshot--> exporters
                       └> checks --> prober (a thread) --results--┘

Other threads put immutable values into the queue and read immutable readings; only `Agent.run` touches the rest.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import json
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING

import structlog

from dolphin_agent.bpf import kernel
from dolphin_agent.bpf.flow_tables import Limits
from dolphin_agent.desired import Desired
from dolphin_agent.errors import BpfError, DolphinError, KubeError
from dolphin_agent.export.exposition import Exposition
from dolphin_agent.export.http import Endpoint, Request, Response
from dolphin_agent.export.otlp import OtlpPush, make_resource
from dolphin_agent.export.otlp_exporter import make_exporter, wanted
from dolphin_agent.export.own import OwnMetrics, Vitals
from dolphin_agent.health import metrics as health_metrics
from dolphin_agent.health.plan import HealthPlan, Impossible, plan_checks
from dolphin_agent.health.prober import Prober
from dolphin_agent.policy.vocabulary import NAMESPACE
from dolphin_agent.probes.engine import Engine
from dolphin_agent.probes.ladder import RETRY_SECONDS
from dolphin_agent.probes.plan import Plan, make_plan
from dolphin_agent.readings import Reading, Readings
from dolphin_agent.snapshot.ledger import Ledger
from dolphin_agent.standalone import Standalone
from dolphin_agent.status.describe import Status, describe
from dolphin_agent.status.node_monitor import Numbers, numbers

if TYPE_CHECKING:
    from dolphin_agent.config import Config
    from dolphin_agent.pods.backend import Backend
    from dolphin_agent.source import Source
    from dolphin_agent.status.reporter import Reporter

TICK_SECONDS = 0.5
"""How often dead namespaces are looked for."""

LINGER_SECONDS = 60.0
"""How long the last values of a pod that is gone wait to be scraped and pushed: most scrapers come once a minute."""

DRAIN_FILL = 0.4
"""The share of a flow table that has it drained before its time: a full one costs detail."""

LISTEN_SECONDS = 5.0
"""In Kubernetes, between two attempts to listen where the address cannot be had."""

HANG_SECONDS = 300.0
"""In Kubernetes, an agent that has done nothing for so long ends, with a traceback of each thread, to be started anew.
No probe sees that: the endpoint has threads of its own."""

log = structlog.get_logger()


def relax_collector() -> None:
    """Has Python look for cyclic garbage less often: flow records are many, live long and have no cycles.

    Measured by `make bench-userspace`: 100,000 new flows are added up in half the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


class _Read:
    """Message: take a reading."""


@dataclasses.dataclass(frozen=True)
class _Stop:
    """Message: end."""

    fault: DolphinError | None = None
    """Why, if it was not asked for."""


_Message = Desired | _Read | _Stop


class Agent:
    """One run of the agent. Raises UnavailableError, ConfigError or ListenError before anything is attached.

    ListenError only outside of Kubernetes: there, status and OTLP do without the endpoint.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._queue: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._readings = Readings(lambda: self._queue.put(_Read()))
        self._status = Status()
        self._desired: Desired | None = None
        self._plan = Plan()
        self._health_plan = HealthPlan()
        self._impossible: tuple[Impossible, ...] = ()
        self._incarnations: dict[tuple[str, int], int] = {}
        self._deaths: dict[tuple[str, int], float] = {}
        """Pod uid and namespace -> monotonic time at which it was found dead; until the source has looked again."""
        self._applied = 0.0
        self._drained = float("-inf")
        self._drain_seconds = 0.0
        self._fill = 0.0
        self._scraped = float("-inf")
        """When the reading was taken that was scraped last, in seconds since the epoch."""

        self._uncounted = kernel.uncounted()
        if self._uncounted:
            log.warning("health checks only", reason=self._uncounted)
        self._reporter: Reporter | None = None
        self._source = self._make_source(config)
        routes = {"/metrics": self._metrics, "/healthz": _healthy, "/readyz": self._ready}
        self._otlp: OtlpPush | None = None
        if wanted(config.otlp_endpoint):
            exporter, resource = make_exporter(config.otlp_endpoint), make_resource(config.node_name)
            self._otlp = OtlpPush(exporter, resource, config.collect_interval, lambda: self._readings.fresh().snapshot)
        self._endpoint = Endpoint(config.listen, routes, patient=not config.standalone)
        self._listened = time.monotonic()
        self._proved = float("-inf")
        self._own = OwnMetrics(lambda: self._readings.latest.vitals)
        self._exposition = Exposition(self._own)
        limits = Limits(config.max_flows, fold_ports=config.flow_ports == "service")
        self._engine = Engine(limits)
        self._ledger = Ledger(limits, config.flow_idle_timeout)
        self._prober = Prober()

    def _make_source(self, config: Config) -> Source:
        if config.standalone:
            assert config.policies is not None  # noqa: S101 - config.load refuses their absence
            assert config.pods is not None  # noqa: S101
            return Standalone(config.policies, config.pods, self._queue.put)
        assert config.node_name is not None  # noqa: S101
        # Imported here: where there is no Kubernetes, what speaks to it would take 6 MiB for nothing.
        from dolphin_agent.cluster import Cluster  # noqa: PLC0415
        from dolphin_agent.kube.access import from_kubeconfig, in_cluster, namespace  # noqa: PLC0415
        from dolphin_agent.kube.client import Client  # noqa: PLC0415
        from dolphin_agent.status.reporter import Reporter, identity, refuse_occupied  # noqa: PLC0415

        access = from_kubeconfig(config.kubeconfig) if config.kubeconfig else in_cluster()
        client = Client(access)
        try:
            refuse_occupied(client, config.node_name, identity())
        except KubeError as fault:  # it may come up, and the reporter asks again
            log.warning("the API server does not answer yet", reason=str(fault))
        self._reporter = Reporter(
            client,
            config.node_name,
            namespace() or NAMESPACE,
            self._present_status,
            self._count,
            lambda fault: self._queue.put(_Stop(fault)),
        )
        return Cluster(client, config.node_name, config.proc_root, self._queue.put, self._uncounted)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT; then detaches everything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._queue.put(_Stop()))
        relax_collector()
        self._source.start()
        for part in (self._reporter, self._otlp):
            if part:
                part.start()
        host, _ = self._config.listen
        log.info("running", listen=f"{host}:{self._endpoint.port}", policies=str(self._config.policies or "cluster"))
        if (problem := self._unheard()) and self._reporter:
            log.warning("problem", problem=problem)
            self._reporter.warn("CannotListen", problem)
        try:
            with self._endpoint:
                self._loop()
        finally:
            self._end()
            log.info("stopped")

    def _end(self) -> None:
        """The last push and the end of the status go on while everything is detached."""
        endings = []
        if self._otlp:
            self._read()
            endings.append(threading.Thread(target=self._otlp.end, args=(self._readings.latest.snapshot,)))
        if self._reporter:
            endings.append(threading.Thread(target=self._reporter.stop))
        for ending in endings:
            ending.start()
        self._source.stop()
        self._prober.close()
        self._engine.close()
        for ending in endings:
            ending.join()
        self._own.close()

    def _loop(self) -> None:
        while True:
            self._prove_alive()
            message = self._next_message()
            if isinstance(message, _Stop):
                if message.fault:
                    raise message.fault
                return
            try:
                self._handle(message)
            except BpfError as fault:  # unforeseen: every refusal that can be expected is in the engine's status
                log.exception("the kernel refused an operation", reason=str(fault))

    def _prove_alive(self) -> None:
        if self._reporter and time.monotonic() - self._proved > HANG_SECONDS / 10:
            self._proved = time.monotonic()
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)

    def _next_message(self) -> _Message | None:
        try:
            return self._queue.get(timeout=TICK_SECONDS)
        except queue.Empty:
            return None

    def _handle(self, message: _Message | None) -> None:
        match message:
            case Desired():
                self._desired = message
                self._reconcile()
            case _Read():
                self._read()
            case None:
                self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if died := self._engine.died():
            for uid, netns, _ in died:
                self._deaths[uid, netns] = now
            self._reconcile()
            self._source.look()
        elif self._engine.has_room or (self._status.retry and now - self._applied >= RETRY_SECONDS):
            self._reconcile()
        if self._ruled_out() != self._impossible:
            self._tell()
        if now - self._drained >= self._config.collect_interval or self._engine.fill() >= DRAIN_FILL:
            self._drain()
        if self._endpoint.problem and now - self._listened >= LISTEN_SECONDS:
            self._listen()

    def _listen(self) -> None:
        """Tries again to open the endpoint."""
        before = self._unheard()
        self._endpoint.retry()
        self._listened = time.monotonic()
        if self._unheard() != before and self._reporter:
            log.info("problem ended", problem=before)
            self._reporter.changed()

    def _unheard(self) -> str:
        """Why nobody is answered at the endpoint, or empty."""
        if not self._endpoint.problem:
            return ""
        return (
            f"{self._endpoint.problem} (the chart's agent.listen): until then there is no /metrics and the pod is not "
            "ready, while counting and pushing go on"
        )

    def _reconcile(self) -> None:
        """Moves kernel and ledger to what is desired now; untouched series notice nothing."""
        desired = self._desired
        if desired is None:
            return
        self._health_plan = plan_checks(desired.policies, desired.pods)
        self._prober.follow(self._health_plan.checks)
        backends = self._living(desired)
        fold_ports = self._config.flow_ports == "service"
        self._plan = make_plan(desired.policies, backends, fold_ports=fold_ports, node=desired.node)
        self._drain()
        self._engine.apply(self._plan)
        status = self._engine.status
        counted = [series for series in self._plan.series if series.backend not in status.without_slot]
        gone = self._ledger.backends - {backend.key for backend in backends}
        self._ledger.follow(counted, time.time(), status.kinds, gone)
        self._applied = time.monotonic()
        self._tell()
        self._read()

    def _living(self, desired: Desired) -> list[Backend]:
        """The backends, without those whose namespace has died since the source looked at it.

        Its number may be another pod's by now. One that is there at a later look is a new one.
        """
        present = {(backend.pod.uid, backend.netns) for backend in desired.backends}
        self._incarnations = {key: n for key, n in self._incarnations.items() if key in present}
        self._deaths = {key: died for key, died in self._deaths.items() if key in present}
        for key in [key for key, died in self._deaths.items() if died < desired.looked]:
            del self._deaths[key]
            self._incarnations[key] = self._incarnations.get(key, 0) + 1
        return [
            dataclasses.replace(b, incarnation=self._incarnations.get((b.pod.uid, b.netns), 0))
            for b in desired.backends
            if (b.pod.uid, b.netns) not in self._deaths
        ]

    def _tell(self) -> None:
        """Says what is new, now that something was applied or a health check turned out to be impossible."""
        assert self._desired  # noqa: S101 - nothing can have changed before
        self._impossible = self._ruled_out()
        health = self._health_plan._replace(impossible=self._impossible)
        self._log_changes(describe(self._desired, self._plan, self._engine.status, health))

    def _ruled_out(self) -> tuple[Impossible, ...]:
        """The health checks that cannot be made."""
        return (*self._health_plan.impossible, *self._prober.impossible())

    def _log_changes(self, status: Status) -> None:
        for problem in status.problems:
            if problem not in self._status.problems:
                log.warning("problem", problem=problem)
        for problem in self._status.problems:
            if problem not in status.problems:
                log.info("problem ended", problem=problem)
        self._status = status
        if self._reporter:
            self._reporter.changed()

    def _drain(self) -> None:
        self._drained = time.monotonic()
        now = time.time()
        self._fill = self._engine.fill()
        self._ledger.credit(self._engine.drain(), now)
        self._ledger.release(self._exported(now))
        self._drain_seconds = time.monotonic() - self._drained

    def _exported(self, now: float) -> float:
        """Up to when each exit has had the last values of pods that are gone, or has been waited for long enough."""
        exported = min(self._scraped, self._otlp.pushed) if self._otlp else self._scraped
        return max(exported, now - max(LINGER_SECONDS, 2 * self._config.collect_interval))

    def _read(self) -> None:
        began = time.monotonic()
        self._drain()
        drained = time.monotonic()
        snapshot = health_metrics.added(self._ledger.snapshot(time.time()), self._prober.results())
        vitals = Vitals(
            lost=self._engine.lost(),
            hooks=self._engine.status.hooks,
            pods=self._engine.status.backends,
            tasks=len(self._desired.policies) if self._desired else 0,
            series=snapshot.series,
            problems=len(self._present_status().problems),
            flows=self._ledger.flows,
            flows_refused=self._ledger.refused,
            max_flows=self._config.max_flows,
            drain_seconds=self._drain_seconds,
            snapshot_seconds=time.monotonic() - drained,
            scrape_seconds=self._exposition.seconds,
            map_fill=self._fill,
            map_bytes=self._engine.map_bytes,
            watch_ages=self._source.ages,
            pushes=self._otlp.pushes if self._otlp else {},
        )
        self._readings.publish(Reading(snapshot, vitals, began))

    def _present_status(self) -> Status:
        status = self._status if self._desired else Status(problems=self._source.waiting)
        if not (unheard := self._unheard()):
            return status
        return dataclasses.replace(status, problems=(unheard, *status.problems))

    def _count(self) -> Numbers:
        """Raises TimeoutError."""
        reading = self._readings.fresh()
        return numbers(reading.snapshot, reading.vitals.lost)

    def _metrics(self, request: Request) -> Response:
        try:
            reading = self._readings.fresh()
        except TimeoutError:
            return Response(b"the counters could not be read in time\n", status=503)
        response = self._exposition.answer(reading.snapshot, request)
        self._scraped = max(self._scraped, reading.snapshot.taken)
        return response

    def _ready(self, _: Request) -> Response:
        status = self._present_status()
        if self._reporter and (problem := self._reporter.problem):
            status = dataclasses.replace(status, problems=(*status.problems, f"status: {problem}"))
        body = json.dumps(dataclasses.asdict(status), indent=2).encode() + b"\n"
        return Response(body, 200 if status.ready else 503, "application/json")


def _healthy(_: Request) -> Response:
    return Response(b"ok\n")
