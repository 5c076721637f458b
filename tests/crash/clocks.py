"""A wall clock that jumps by days and years while the server runs: order, ids, pages and keys do not follow it."""

import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from crash.findings import Findings, Progress, Result, quiet
from support.altered import CLOCK, WatchedServer
from support.moved_clock import DAY_S, set_offset
from support.wire import Answer, ConnectionGone, Request, Wire, ask

JUMPS_S = (-365 * DAY_S, -DAY_S, -1, 0, DAY_S, 365 * DAY_S)
WRITERS = 3
SHARED = "shared"
ACKNOWLEDGED_A_JUMP = 60
KEYS_A_JUMP = 5
PAGE = 7


def run_clocks(count: int, seed: int, progress: Progress = quiet, *, bug: str = "") -> Result:
    """Let the clock jump *count* times under load, with a restart in the middle, and look at all there is."""
    findings = Findings("clocks" + (f" with {bug}" if bug else ""), seed)
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="clocks-") as folder:
        clock = Path(folder) / "clock"
        set_offset(clock, 0)
        path, log = Path(folder) / "ledger.db", Path(folder) / "log"
        with WatchedServer(path, log=log, bug=bug, env={CLOCK: str(clock)}) as server:
            ask(server.port, "POST", "/v1/sessions", {"id": SHARED})
            trial = _Trial(server, findings)
            jumps = [365 * DAY_S, -DAY_S, *(chance.choice(JUMPS_S) for _ in range(count - 2))]
            for number, jump_s in enumerate(jumps):
                trial.use_keys(KEYS_A_JUMP)
                with trial.under_load():
                    set_offset(clock, jump_s)
                trial.use_keys(1)  # whoever uses a key has old ones forgotten
                if number == count // 2:
                    server.kill()
                    server.start()
                    findings.counts["restarts"] += 1
                findings.counts["jumps"] += 1
                progress(number + 1, count)
            trial.repeat_keys()
            trial.check()
    return findings.result()


@dataclass
class _Trial:
    """One server, and what was sent to it."""

    server: WatchedServer
    findings: Findings
    acknowledged: list[tuple[int, str, str]] = field(default_factory=list)
    """Writer, session, message id, in the order of the acknowledgements."""
    keyed: list[tuple[Request, Answer]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()

    def use_keys(self, count: int) -> None:
        """Some requests under keys."""
        for _ in range(count):
            name = f"key-{len(self.keyed)}"
            message = {"role": "user", "content": name}
            request = Request.of("POST", f"/v1/sessions/{SHARED}/messages", message, idempotency_key=name)
            with Wire(self.server.port) as wire:
                answer = wire.ask(request)
            self.keyed.append((request, answer))
            if answer.status != 201:
                self.findings.violation(f"{name} got {answer.status} {answer.body[:200]!r}")

    def repeat_keys(self) -> None:
        """Each key again: the first answer, whatever time it has become."""
        with Wire(self.server.port) as wire:
            for request, first in self.keyed:
                again = wire.ask(request)
                self.findings.counts["keys repeated"] += 1
                if again.body != first.body or again.headers.get("idempotency-replayed") != "true":
                    self.findings.violation(f"a key was forgotten: {again.status} {again.body[:120]!r}")

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Have writers and a reader at work before the block, and behind it."""
        stopping = threading.Event()
        threads = [threading.Thread(target=self._write, args=(number, stopping)) for number in range(WRITERS)]
        threads.append(threading.Thread(target=self._page, args=(stopping,)))
        for thread in threads:
            thread.start()
        try:
            self._wait()
            yield
            self._wait()
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

    def _wait(self) -> None:
        with self._changed:
            target = len(self.acknowledged) + ACKNOWLEDGED_A_JUMP // 2
            if not self._changed.wait_for(lambda: len(self.acknowledged) >= target, timeout=60):
                self.findings.violation("the writers stand still")

    def _write(self, writer: int, stopping: threading.Event) -> None:
        message = {"role": "user", "content": "x"}
        with Wire(self.server.port) as wire:
            made = wire.ask(Request.of("POST", "/v1/sessions", {"title": "no id"}))
            own = made.document["id"]
            while not stopping.is_set():
                for session in (own, SHARED):
                    answer = wire.ask(Request.of("POST", f"/v1/sessions/{session}/messages", message))
                    if answer.status != 201:
                        self.findings.violation(f"a write got {answer.status} {answer.body[:200]!r}")
                        continue
                    with self._changed:
                        self.acknowledged.append((writer, session, answer.document["id"]))
                        self._changed.notify_all()

    def _page(self, stopping: threading.Event) -> None:
        try:
            with Wire(self.server.port) as wire:
                while not stopping.is_set():
                    self._messages(wire, SHARED)
        except ConnectionGone:
            self.findings.violation("a reader was thrown out")

    def _messages(self, wire: Wire, session: str) -> list[str]:
        """All of a session's messages by pages that are held against each other."""
        ids: list[str] = []
        while True:
            page = wire.ask(
                Request.of("GET", f"/v1/sessions/{session}/messages?after={len(ids)}&limit={PAGE}")
            ).document
            seqs = [message["seq"] for message in page["data"]]
            if seqs != list(range(len(ids) + 1, len(ids) + 1 + len(seqs))):
                self.findings.violation(f"{session}: a page behind {len(ids)} has {seqs}")
                return ids
            ids += [message["id"] for message in page["data"]]
            if not page["has_more"]:
                self.findings.counts["traversals"] += 1
                return ids

    def check(self) -> None:
        """Order, ids and pages, when all is at rest."""
        findings = self.findings
        with Wire(self.server.port) as wire:
            events = self._listing(wire, "/v1/events?limit=200")
            sessions = self._listing(wire, "/v1/sessions?limit=3")
            stored = {session: self._messages(wire, session) for session in {s for _, s, _ in self.acknowledged}}
        findings.counts["events"] = len(events)
        back = sum(b["recorded_at"] < a["recorded_at"] for a, b in pairwise(events))
        findings.counts["times that went back"] = back
        if not back:
            findings.violation("the clock did not jump: this run shows nothing")
        if [event["position"] for event in events] != list(range(1, len(events) + 1)):
            findings.violation("the positions have a gap, or are out of order")
        versions: dict[str, int] = {}
        for event in events:
            versions[event["session_id"]] = versions.get(event["session_id"], 0) + 1
            if event["version"] != versions[event["session_id"]]:
                findings.violation(
                    f"version {event['version']} stands where {versions[event['session_id']]} was to come"
                )
        names = [name for ids in stored.values() for name in ids] + [session["id"] for session in sessions]
        if len(set(names)) != len(names):
            findings.violation("an id was given twice")
        self._check_order(stored)
        active: dict[str, None] = {}
        for event in reversed(events):
            active.setdefault(event["session_id"])
        if [session["id"] for session in sessions] != list(active):
            findings.violation("the sessions are not listed last active first, each once")

    def _check_order(self, stored: dict[str, list[str]]) -> None:
        """Each writer's messages stand in the order in which they were acknowledged to it."""
        for writer in range(WRITERS):
            for session, ids in stored.items():
                own = [name for who, where, name in self.acknowledged if (who, where) == (writer, session)]
                wanted = set(own)
                if [name for name in ids if name in wanted] != own:
                    self.findings.violation(f"{session}: the messages of writer {writer} are not as it sent them")

    def _listing(self, wire: Wire, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = wire.ask(Request.of("GET", path + cursor)).document
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"
