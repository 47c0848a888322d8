"""What servers of tests have in common: a process with a log, free ports, certificates."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

from integration.lib.wait import wait_until
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

READY_SECONDS = 30
STOP_SECONDS = 10
_TAIL = 2000
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
_LEAF = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth"


class Server:
    """A program that can be started and stopped time and again; its log goes on."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Take the command line, and the file for what it prints."""
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, while it runs."""
        assert self._process, f"{self._command[0]} is not running"
        return self._process

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self, ready: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
        """Start it and wait until it is ready; raises HarnessError with the end of its log."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT)

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise HarnessError(f"{self._command[0]} ended with status {self.process.returncode}:\n{self._tail()}")
            return ready()

        try:
            wait_until(is_ready, deadline=seconds, what=f"{self._command[0]} is ready")
        except TimeoutError as fault:
            self.stop()
            raise HarnessError(f"{fault}\n{self._tail()}") from fault
        except HarnessError:
            self.stop()
            raise

    def stop(self) -> None:
        """Let it end in order, even if it was stopped, and kill it where that takes too long."""
        if process := self._process:
            self._process = None
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tail(self) -> str:
        return self.log[-_TAIL:]


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether somebody accepts connections on a port."""
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody has."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Authority:
    """Signs certificates: NAME.crt with NAME.key, in its directory, where its own is ca.crt."""

    def __init__(self, directory: Path) -> None:
        """Make it; raises HarnessError."""
        self._directory = directory
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        self._key("ca")
        self.openssl(
            "req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=test-ca", "-days", "2", "-out", "ca.crt", *usage
        )

    def sign(self, name: str, subject: str, extension: str) -> None:
        """Make a key and its certificate; raises HarnessError."""
        self._key(name)
        self.openssl("req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr")
        (self._directory / f"{name}.ext").write_text(extension)
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signed)

    def openssl(self, *arguments: str) -> None:
        """Run it in the directory; raises HarnessError."""
        done = subprocess.run(["openssl", *arguments], cwd=self._directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HarnessError(f"openssl {arguments[0]}: {done.stderr}")

    def _key(self, name: str) -> None:
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")


def certificates(directory: Path) -> None:
    """Write ca.crt, and server.crt and server.key that it has signed for loopback; raises HarnessError."""
    Authority(directory).sign("server", "/CN=localhost", _LEAF)
