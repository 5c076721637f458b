"""Readers that stay open: the write-ahead log grows meanwhile, is seen to, and shrinks when they go."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import apsw

from crash.findings import Findings, Progress, Result, quiet
from support.altered import WatchedServer
from support.wire import Request, Wire, ask

LIMIT_PAGES = 40
GROWN = 8
"""The log is let grow to so many times its limit."""
WRITES_MAX = 1_500
FILES = ("ledger", "views")


def run_long_readers(count: int, seed: int, progress: Progress = quiet, *, bug: str = "") -> Result:
    """*count* times: a process reads the ledger or the views without end while others write, and then it ends."""
    findings = Findings("long readers" + (f" with {bug}" if bug else ""), seed)
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="long-readers-") as folder:
        path, log = Path(folder) / "ledger.db", Path(folder) / "log"
        settings = {"CHATLEDGER_WAL_CHECKPOINT_PAGES": str(LIMIT_PAGES)}
        with WatchedServer(path, log=log, bug=bug, env=settings) as server, Wire(server.port) as wire:
            trial = _Trial(server, wire, findings)
            trial.write(1)
            for number in range(count):
                trial.run(FILES[(number + chance.randrange(2)) % 2])
                progress(number + 1, count)
    return findings.result()


class _Trial:
    """A server, and one client that writes."""

    def __init__(self, server: WatchedServer, wire: Wire, findings: Findings) -> None:
        self._server = server
        self._wire = wire
        self._findings = findings
        self._written = 0
        ask(server.port, "POST", "/v1/sessions", {"id": "s"})

    def run(self, kind: str) -> None:
        """One long read of one of the files."""
        folder = Path(self._server.database).parent
        name = self._server.database if kind == "ledger" else str(next(folder.glob("*.views.*.db")))
        limit = self._bytes_of(LIMIT_PAGES, name)
        warned = self._count(f'"{kind}"')
        reader = apsw.Connection(name, flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN")
        before = reader.execute("SELECT count(*) FROM sqlite_schema").get
        if not self._write_until(lambda: self._metric(f"{kind}_wal_bytes") > GROWN * limit):
            self._findings.violation(f"{kind}: the metric does not show a log that a reader holds")
        grown = self._metric(f"{kind}_wal_bytes")
        if not self._write_until(lambda: self._metric("wal_held_pages") > LIMIT_PAGES):
            self._findings.violation(f"{kind}: a log of {grown:.0f} bytes is held, and no metric says so")
        if self._count(f'"{kind}"') == warned:
            self._findings.violation(f"{kind}: a log of {grown:.0f} bytes is held, and no warning says so")
        assert reader.execute("SELECT count(*) FROM sqlite_schema").get == before
        reader.close()
        if not self._write_until(lambda: self._metric(f"{kind}_wal_bytes") <= 3 * limit):
            self._findings.violation(f"{kind}: the log stays at {self._metric(f'{kind}_wal_bytes'):.0f} bytes")
        if not self._write_until(lambda: self._metric("wal_held_pages") == 0):
            self._findings.violation(f"{kind}: the metric stays though the reader has gone")
        self._findings.counts["long reads"] += 1
        self._findings.counts["KiB that logs grew to"] += int(grown) // 1024

    def _write_until(self, condition: Callable[[], bool]) -> bool:
        """Write, within a limit that is of writes and not of time."""
        for _ in range(WRITES_MAX // 10):
            if condition():
                return True
            self.write(10)
        return condition()

    def write(self, count: int) -> None:
        """Append so many messages."""
        for _ in range(count):
            self._written += 1
            message = {"role": "user", "content": "x" * 2000}
            answer = self._wire.ask(Request.of("POST", "/v1/sessions/s/messages", message))
            if answer.status != 201:
                self._findings.violation(f"a write got {answer.status} {answer.body[:200]!r}")
        self._findings.counts["writes"] += count

    def _metric(self, name: str) -> float:
        text = self._wire.ask(Request.of("GET", "/metrics")).body.decode()
        for line in text.splitlines():
            if line.startswith(f"chatledger_{name} "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"there is no metric {name}")

    def _count(self, word: str) -> int:
        lines = self._server.log.read_text().splitlines()
        return sum("write-ahead log held" in line and word in line for line in lines)

    def _bytes_of(self, pages: int, name: str) -> int:
        with_pages = apsw.Connection(name, flags=apsw.SQLITE_OPEN_READONLY)
        size = int(with_pages.pragma("page_size"))
        with_pages.close()
        return pages * size
