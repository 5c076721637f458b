"""Thousands of concurrent operations with kills in between; what the clients saw of it is checked as a whole."""

import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from crash.findings import Findings, Progress, Result, quiet
from crash.history_check import Append, History, Listing, Read, violations
from support.altered import WatchedServer
from support.wire import Answer, ConnectionGone, Request, Wire, ask

CLIENTS = 8
SESSIONS = tuple(f"s{number}" for number in range(4))
OPERATIONS_A_LIFE = 1_500
"""So many operations before the server is killed."""
OPERATIONS_A_LEDGER = 6_000
"""So many before a new ledger: readers read all of a session."""


@dataclass
class _Seen:
    """What all clients did so far."""

    appends: list[Append] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)


def run_history(count: int, seed: int, progress: Progress = quiet, *, bug: str = "") -> Result:
    """Do at least *count* operations from several connections, with a SIGKILL after every so many, and check."""
    findings = Findings("history" + (f" with {bug}" if bug else ""), seed)
    chance = random.Random(seed)
    done = 0
    while done < count and not (bug and findings.violations):
        ended = _one_ledger(
            min(OPERATIONS_A_LEDGER, count - done),
            chance,
            findings,
            bug,
            lambda part, base=done: progress(base + part, count),
        )
        done += ended
    return findings.result()


def _one_ledger(
    count: int, chance: random.Random, findings: Findings, bug: str, progress: Callable[[int], None]
) -> int:
    """The history of one ledger over several lives of its server; how many operations there were."""
    seen = _Seen()
    done = 0
    with (
        tempfile.TemporaryDirectory(prefix="history-") as folder,
        WatchedServer(Path(folder) / "ledger.db", log=Path(folder) / "server.log", bug=bug) as server,
    ):
        for session in SESSIONS:
            ask(server.port, "POST", "/v1/sessions", {"id": session})
        while done < count:
            target = chance.randrange(OPERATIONS_A_LIFE // 2, OPERATIONS_A_LIFE)
            clients = _Clients(server, seen, findings, f"c{chance.randrange(10**9)}")
            done += clients.run_until(min(target, count - done))
            server.kill()
            clients.join()
            server.start()
            findings.counts["kills"] += 1
            progress(min(done, count))
        final = {session: _all_ids(server, session) for session in SESSIONS}
    findings.counts["operations"] += len(seen.appends) + len(seen.reads) + len(seen.listings)
    findings.counts["acknowledged appends"] += sum(append.acknowledged for append in seen.appends)
    findings.counts["reads"] += len(seen.reads)
    findings.counts["listings"] += len(seen.listings)
    for violation in violations(History(seen.appends, seen.reads, seen.listings, final)):
        findings.violation(violation)
    return done


class _Clients:
    """Threads with a connection each, until the server is gone."""

    def __init__(self, server: WatchedServer, seen: _Seen, findings: Findings, seed: str) -> None:
        self._server = server
        self._seen = seen
        self._findings = findings
        self._done = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"{seed}/{n}",)) for n in range(CLIENTS)]

    def run_until(self, operations: int) -> int:
        """Start them, and return once so many operations are done."""
        for thread in self._threads:
            thread.start()
        with self._changed:
            if not self._changed.wait_for(lambda: self._done >= operations, timeout=120):
                self._findings.violation("the clients stand still")
            return self._done

    def join(self) -> None:
        """Wait until each has noticed that the server is gone."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: str) -> None:
        chance = random.Random(seed)
        name = seed.replace("/", ".")
        try:
            with Wire(self._server.port) as wire:
                number = 0
                while not self._stopping.is_set():
                    number += 1
                    self._operate(wire, chance, f"{name}.{number}")
                    with self._changed:
                        self._done += 1
                        self._changed.notify_all()
        except (ConnectionGone, OSError):
            pass

    def _operate(self, wire: Wire, chance: random.Random, name: str) -> None:
        session, kind = chance.choice(SESSIONS), chance.random()
        if kind < 0.5:
            self._append(wire, session, [f"{name}.{part}" for part in range(chance.choice([1, 1, 1, 2, 5]))])
        elif kind < 0.98:
            latest = max((read.after + len(read.ids) for read in self._seen.reads[-50:]), default=0)
            after = chance.choice([0, chance.randrange(latest + 1), max(0, latest - 20)])
            self._read(wire, session, after, limit=chance.choice([7, 50, 1000]))
        else:
            self._list(wire, limit=chance.choice([50, 200]))

    def _append(self, wire: Wire, session: str, names: list[str]) -> None:
        messages = [{"id": name, "role": "user", "content": "x"} for name in names]
        document = messages[0] if len(messages) == 1 else {"messages": messages}
        request = Request.of("POST", f"/v1/sessions/{session}/messages", document)
        start_s, acknowledged, version = time.monotonic(), False, None
        try:
            answer = wire.ask(request)
            acknowledged, version = answer.status == 201, answer.version
            self._expect(answer, 201, 503)
        finally:
            self._seen.appends.append(
                Append(
                    session, tuple(names), start_s, time.monotonic(), acknowledged, version if acknowledged else None
                )
            )

    def _read(self, wire: Wire, session: str, after: int, *, limit: int) -> None:
        start_s, ids, version, more = time.monotonic(), [], 0, True
        while more:
            path = f"/v1/sessions/{session}/messages?after={after + len(ids)}&limit={limit}"
            answer = wire.ask(Request.of("GET", path))
            if not self._expect(answer, 200):
                return
            page = answer.document
            if not page["data"] and page["has_more"]:
                self._findings.violation(f"{session}: an empty page with more behind it")
                return
            ids += [message["id"] for message in page["data"]]
            version, more = answer.version or 0, page["has_more"]
        if not ids and after:  # it began behind the end
            return
        self._seen.reads.append(Read(session, after, tuple(ids), start_s, time.monotonic(), version, whole=True))

    def _list(self, wire: Wire, *, limit: int) -> None:
        start_s, positions, cursor = time.monotonic(), [], ""
        while True:
            answer = wire.ask(Request.of("GET", f"/v1/events?limit={limit}{cursor}"))
            if not self._expect(answer, 200):
                return
            page = answer.document
            positions += [event["position"] for event in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        self._seen.listings.append(Listing(tuple(positions), start_s, time.monotonic()))

    def _expect(self, answer: Answer, *statuses: int) -> bool:
        if answer.status not in statuses:
            self._findings.violation(f"answered {answer.status}: {answer.body[:200]!r}")
        return answer.status == statuses[0]


def _all_ids(server: WatchedServer, session: str) -> list[str]:
    ids: list[str] = []
    while True:
        page = ask(server.port, "GET", f"/v1/sessions/{session}/messages?after={len(ids)}&limit=1000").document
        ids += [message["id"] for message in page["data"]]
        if not page["has_more"]:
            return ids
