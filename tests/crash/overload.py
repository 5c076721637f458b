"""Ten times what the server can take, without waiting for it: bounded, honest about it, and well again soon after."""

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crash.findings import Findings, Progress, Result, quiet
from support.altered import SLOW_COMMIT_MS, WatchedServer
from support.open_loop import Load, closed_loop, open_loop
from support.wire import Request, Wire, ask

TIMES = 10
TIMES_MIN = 5
"""The load that has to be reached at least, in the server's capacity: the generator shares the machine with it."""
QUEUE_MAX = 64
GROUP_MAX = 2
SLOW_MS = 10
"""A disk so slow that the generator can offer ten times what the server manages: some 200 commands a second."""
SESSIONS = 8
CONTENT = "x" * 500
CALM_S = 2.0
RECOVERY_S = 5.0
GROWTH_MIB = 48
"""The most that the server's memory may grow by: the queue's bytes and the connections', not the load's length."""
PACE = 0.7
"""Full speed again: at least this part of the throughput before."""
P99_FACTOR = 4.0
"""The accepted wait for no more than the queue before them, by Little's law; so much is for a busy machine."""


@dataclass
class _Watched:
    """The largest values that were seen during the load."""

    queue: float = 0
    rss_bytes: int = 0
    looks: int = 0


def run_overload(seconds: int, seed: int, progress: Progress = quiet, *, bug: str = "") -> Result:
    """Measure what a server with a slow disk and a short queue can take, offer ten times that for *seconds*."""
    findings = Findings("overload" + (f" with {bug}" if bug else ""), seed)
    settings = {
        SLOW_COMMIT_MS: str(SLOW_MS),
        "CHATLEDGER_QUEUE_COMMANDS_MAX": str(QUEUE_MAX),
        "CHATLEDGER_GROUP_COMMANDS_MAX": str(GROUP_MAX),
    }
    with tempfile.TemporaryDirectory(prefix="overload-") as folder:
        path, log = Path(folder) / "ledger.db", Path(folder) / "log"
        with WatchedServer(path, log=log, bug=bug, env=settings) as server:
            trial = _Trial(server, findings)
            trial.run(seconds)
            progress(seconds, seconds)
            server.kill()
            server.start()
            trial.check_stored()
    return findings.result()


class _Trial:
    """One server, and what it acknowledged."""

    def __init__(self, server: WatchedServer, findings: Findings) -> None:
        self._server = server
        self._findings = findings
        self._number = 0
        self._acknowledged: set[str] = set()
        self._refused: set[str] = set()
        for number in range(SESSIONS):
            ask(server.port, "POST", "/v1/sessions", {"id": f"s{number}"})

    def _make(self) -> tuple[str, Request]:
        self._number += 1
        name = f"m{self._number}"
        message = {"id": name, "role": "user", "content": CONTENT}
        return name, Request.of("POST", f"/v1/sessions/s{self._number % SESSIONS}/messages", message)

    def run(self, seconds: int) -> None:
        """Calm, too much, calm again."""
        findings, port = self._findings, self._server.port
        calm = self._note(closed_loop(port, self._make, connections=4 * GROUP_MAX, seconds=CALM_S))
        capacity = len(calm.of_status(201)) / calm.seconds
        before = _rss(self._server.pid)
        with self._watching() as watched:
            load = self._note(open_loop(port, self._make, per_s=TIMES * capacity, seconds=seconds))
        accepted, refused = load.of_status(201), load.of_status(503)
        offered = len(load.sent) / load.seconds / capacity
        findings.counts["commands/s that it can take"] = round(capacity)
        findings.counts["sent"] = len(load.sent)
        findings.counts["not sent, for want of connections"] = load.unsent
        findings.counts["accepted"] = len(accepted)
        findings.counts["refused"] = len(refused)
        findings.counts["longest queue"] = int(watched.queue)
        findings.counts["MiB that memory grew by"] = (watched.rss_bytes - before) // 2**20
        findings.notes.append(f"{offered:.1f} times its capacity; {watched.looks} looks at queue and memory")
        self._judge(load, watched, before, capacity, offered)
        self._recover(capacity)

    def _judge(self, load: Load, watched: _Watched, before: int, capacity: float, offered: float) -> None:
        findings = self._findings
        if watched.queue > QUEUE_MAX:
            findings.violation(f"the queue had {watched.queue:.0f} commands where {QUEUE_MAX} are its limit")
        if watched.rss_bytes - before > GROWTH_MIB * 2**20:
            findings.violation(f"the memory grew by {(watched.rss_bytes - before) // 2**20} MiB")
        if not load.of_status(503):
            findings.violation("nothing was refused")
        if offered < TIMES_MIN and load.of_status(503):
            findings.notes.append("the generator was too slow for ten times: p99 and recovery say less")
        for each in load.sent:
            if each.status not in (201, 503) or (each.status == 503 and not each.retry_after):
                findings.violation(f"{each.name} got {each.status}, Retry-After: {each.retry_after}")
        accepted = [each.took_s for each in load.of_status(201)]
        if len(accepted) > 100:
            p99_s = statistics.quantiles(accepted, n=100)[98]
            bound_s = P99_FACTOR * (QUEUE_MAX + GROUP_MAX) / capacity
            findings.notes.append(f"p99 of the accepted {p99_s * 1000:.0f} ms; the bound is {bound_s * 1000:.0f} ms")
            if p99_s > bound_s:
                findings.violation(f"p99 {p99_s:.2f} s, and the queue before them takes {bound_s / P99_FACTOR:.2f} s")
        if len(accepted) / load.seconds < PACE * capacity / 2:
            findings.violation(
                f"under the load it did {len(accepted) / load.seconds:.0f}/s, and {capacity:.0f}/s before"
            )

    def _recover(self, capacity: float) -> None:
        """Within five seconds there is one at full speed."""
        began_s = time.monotonic()
        best = 0.0
        while best < PACE * capacity and time.monotonic() - began_s < RECOVERY_S:
            after = self._note(closed_loop(self._server.port, self._make, connections=4 * GROUP_MAX, seconds=1.0))
            best = max(best, len(after.of_status(201)) / after.seconds)
        self._findings.notes.append(f"afterwards {best / capacity:.0%} of the speed before")
        if best < PACE * capacity:
            self._findings.violation(f"{RECOVERY_S} s later it does {best:.0f}/s, and {capacity:.0f}/s before")

    @contextmanager
    def _watching(self) -> Iterator[_Watched]:
        watched, stopping = _Watched(), threading.Event()

        def watch() -> None:
            with Wire(self._server.port) as wire:
                while not stopping.wait(0.1):
                    text = wire.ask(Request.of("GET", "/metrics")).body.decode()
                    (line,) = (each for each in text.splitlines() if each.startswith("chatledger_queue_commands "))
                    watched.queue = max(watched.queue, float(line.rsplit(" ", 1)[1]))
                    watched.rss_bytes = max(watched.rss_bytes, _rss(self._server.pid))
                    watched.looks += 1

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield watched
        finally:
            stopping.set()
            thread.join()

    def _note(self, load: Load) -> Load:
        self._acknowledged |= {each.name for each in load.of_status(201)}
        self._refused |= {each.name for each in load.of_status(503)}
        return load

    def check_stored(self) -> None:
        """What was acknowledged is there, once; what was refused is not."""
        stored: list[str] = []
        for number in range(SESSIONS):
            last, more = 0, True
            while more:
                page = ask(
                    self._server.port, "GET", f"/v1/sessions/s{number}/messages?after={last}&limit=1000"
                ).document
                stored += [message["id"] for message in page["data"]]
                last = page["data"][-1]["seq"] if page["data"] else last
                more = page["has_more"]
        found = set(stored)
        if len(found) != len(stored):
            self._findings.violation("a message is there twice")
        if lost := self._acknowledged - found:
            self._findings.violation(f"{len(lost)} were acknowledged and are lost")
        if done := self._refused & found:
            self._findings.violation(f"{len(done)} were refused and are there")
        self._findings.counts["messages checked"] = len(stored)


def _rss(pid: int) -> int:
    """The process's memory that is in RAM, in bytes (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
