"""The real server as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx

START_TIMEOUT_S = 60
TEST_WORKERS = os.environ.get("TEST_WORKERS", "1")
"""How many workers the servers of tests have, where a test does not say; a ledger in memory has one."""


def children(pid: int) -> list[int]:
    """The processes that *pid* has started and that live, in order."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return sorted(int(child) for child in found if not is_gone(int(child)))


def is_gone(pid: int) -> bool:
    """Whether the process has ended, with all of its threads: the others may outlive the first, and hold its locks."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in ("Z", "X") and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


class ServerDidNotStart(Exception):  # a fact, in the test's own words
    """The process ended before it served; its standard error is the message."""


class Server:
    """`chatledger serve` on a free loopback port, with its ledger at *database*.

    It keeps its port over a restart, so that clients can go on.
    """

    def __init__(self, database: Path | str, *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.database = str(database)
        self.port = 0
        workers = "1" if self.database == ":memory:" else TEST_WORKERS
        given = {"CHATLEDGER_LOG_LEVEL": "warning"} | ({"CHATLEDGER_WORKERS": workers} if workers != "1" else {})
        self._env = {**os.environ, **given, **(env or {})}
        self._cwd = cwd
        self._process: subprocess.Popen[str] | None = None
        self._stderr = ""
        self.said = ""
        """What it printed at its start."""

    @property
    def url(self) -> str:
        """Where it serves."""
        scheme = "https" if "CHATLEDGER_TLS_CERTIFICATE" in self._env else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def spawn(self) -> "subprocess.Popen[str]":
        """Begin to start it, and wait for nothing."""
        command = [sys.executable, "-m", "chatledger", "serve", "--database", self.database]
        return subprocess.Popen(
            [*command, "--port", str(self.port)],
            env=self._env,
            cwd=self._cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self) -> Self:
        """Start and wait until it says that it serves."""
        self._process = self.spawn()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerDidNotStart(self._drain())
        self.port = int(line.rsplit(":", 1)[1])
        self.said = line + self._process.stdout.readline()
        return self

    @property
    def is_gone(self) -> bool:
        """Whether it has ended."""
        return self._process is None or self._process.poll() is not None

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, for its workers too, where it has some."""
        assert self._process is not None
        workers = children(self.pid)
        self._process.kill()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for its end."""
        assert self._process is not None
        self._stderr += self._drain()
        return self._process.returncode

    @property
    def stderr(self) -> str:
        """What it wrote to standard error, once it has ended."""
        return self._stderr

    def _drain(self) -> str:
        assert self._process is not None
        _, stderr = self._process.communicate(timeout=START_TIMEOUT_S)
        return stderr

    def client(self, *, tenant: str | None = None) -> httpx.Client:
        """An HTTP client; close it, or use it as a context manager."""
        headers = {} if tenant is None else {"X-Tenant-Id": tenant}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
