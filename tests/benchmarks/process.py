"""A server process to measure: started, asked for its CPU time and metrics, stopped by its id."""

import http.client
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

TESTS = Path(__file__).parents[1]
STOP_TIMEOUT_S = 30
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ServerFailed(Exception):
    """The server did not start, or did not answer as it should."""


def environment() -> dict[str, str]:
    """This process's environment without settings of chatledger, able to import the project and ourselves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATLEDGER_")}
    kept.pop("DATABASE_PATH", None)
    return {**kept, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}


class Process:
    """One process that serves, started in *folder*, which says its URL on standard output. A context manager."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.url = ""
        self.credential = ""
        self._command = command
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.__exit__()
            raise ServerFailed(f"The server did not start; see why with: {' '.join(self._command)}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def cpu_us(self) -> float:
        """CPU time of all its threads so far, user and system, in microseconds (proc(5): fields 14 and 15)."""
        assert self._process is not None
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S * 1e6

    def resident_mb(self) -> float:
        """Resident memory now, in millions of bytes, mapped pages of files included (proc(5): VmRSS, in KiB)."""
        assert self._process is not None
        found = re.search(r"^VmRSS:\s*(\d+) kB$", Path(f"/proc/{self._process.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024 / 1e6

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of one answer.

        Raises:
            ServerFailed: it is no success.
        """
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=STOP_TIMEOUT_S)
        try:
            headers = {"Content-Type": "application/json"}
            if self.credential:
                headers["Authorization"] = f"Bearer {self.credential}"
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise ServerFailed(f"{method} {path} was answered {answer.status}: {text[:200]!r}")
        return text


class Server(Process):
    """One process of `launch.py`, with its ledger in *folder*.

    *settings* are further ones, by their names without the prefix; *credential* is shown with each call.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        log_level: str = "info",
        credential: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        given = {f"CHATLEDGER_{name}": value for name, value in (settings or {}).items()}
        command = [sys.executable, "-m", "benchmarks.launch", kind, str(folder / "ledger.db"), log_level]
        super().__init__(command, folder, {**environment(), **given})
        self.credential = credential

    def metric(self, name: str) -> float:
        """The value of one of its metrics that have no labels."""
        found = re.search(rf"^chatledger_{name} (\S+)$", self.call("GET", "/metrics").decode(), re.MULTILINE)
        if found is None:
            raise ServerFailed(f"There is no metric {name}.")
        return float(found[1])
