"""The pods of a watched file: a stream of ordinary v1 Pod manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dolphin_agent.manifests.fault import Problem
from dolphin_agent.manifests.stream import read_stream
from dolphin_agent.manifests.watch import Look, Watch
from dolphin_agent.pods.manifest import read_pod

if TYPE_CHECKING:
    from pathlib import Path

    from dolphin_agent.manifests.stream import Stream
    from dolphin_agent.pods.model import Pod


class PodFile:
    """A source of pods. One thread polls; what it publishes is immutable and may be read by any."""

    def __init__(self, path: Path) -> None:
        """Take a file, which may come into being later. Nothing is read until the first poll."""
        self._path = path
        self._watch = Watch(path)
        self.pods: tuple[Pod, ...] = ()
        """In the order written; their uids and full names differ."""
        self.problems: tuple[Problem, ...] = ()
        """What could not be taken, in the order written."""

    def poll(self) -> bool:
        """Look at the file once; True if `pods` or `problems` changed. Cheap while the file does not."""
        before = (self.pods, self.problems)
        match self._watch.look():
            case Look.CHANGED:
                self._take(read_stream(self._path))
            case Look.GONE:
                self.pods = ()
                self._complain(f"{self._path}: no such file, so no pod is known; create it")
        return before != (self.pods, self.problems)

    def _take(self, stream: Stream) -> None:
        if stream.malformed:
            note = "; the pods of its last good form are kept" if self.pods else ""
            self._complain(f"{stream.malformed}{note}")
            return
        last_good = {pod.full_name: pod for pod in self.pods}
        by_name: dict[str, Pod] = {}
        by_uid: dict[str, Pod] = {}
        problems: list[Problem] = []
        for document in stream.documents:
            read, faults = read_pod(document)
            pod = last_good.get(read.full_name) if faults else read
            note = "; its last good form is kept" if pod else ""
            complaints = [f"{fault}{note}" for fault in faults]
            place = f"{document.file}:{document.locate(('metadata', 'name')).line}"
            if pod and pod.full_name in by_name:
                complaints.append(f"{place}: pod {pod.full_name} is there twice; remove one")
            elif pod and pod.uid in by_uid:
                other = by_uid[pod.uid].full_name
                complaints.append(f"{place}: pod {pod.full_name} has the uid of pod {other}; remove one")
            elif pod:
                by_name[pod.full_name] = by_uid[pod.uid] = pod
            subject = read.full_name if read.name else str(self._path)
            problems += (Problem(subject, complaint) for complaint in complaints)
        self.pods, self.problems = tuple(by_name.values()), tuple(problems)

    def _complain(self, message: str) -> None:
        self.problems = (Problem(str(self._path), message),)
