"""Real kills: SIGKILL for the server under load, at rest, while it rebuilds and while it starts."""

import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Self

import httpx

from crash.findings import Findings, Progress, Result, quiet
from support.altered import WatchedServer
from support.journal import Journal, all_messages, check, create_shared
from support.server import TEST_WORKERS, children
from support.store import Store
from support.tables import dump, dump_rebuilt, wrong_leaves
from support.workers import listening, until

KILLS_A_LEDGER = 10
"""So many kills before a new ledger: all of it is read again behind each one."""
ACKNOWLEDGED_MAX = 200
RETRIES_CHECKED = 30
PAGES = ("8", "100", "8000")
"""Limits of the write-ahead logs: at the first one they are copied back all the time."""


def run_kills(
    count: int, seed: int, progress: Progress = quiet, *, bug: str = "", writers: int = 8, workers: str = TEST_WORKERS
) -> Result:
    """Kill a server *count* times while *writers* connections write; all that was acknowledged is there afterwards.

    Now and then it is killed again while it starts, or while it builds its views anew. Of several *workers* one is
    killed, or all of them, or their supervisor alone.
    """
    findings = Findings("kills" + (f" with {bug}" if bug else ""), seed)
    chance = random.Random(seed)
    done = 0
    while done < count:
        kills = min(KILLS_A_LEDGER, count - done)
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            journal = Journal(chance.randrange(10**9), writers=writers)
            settings = {"CHATLEDGER_WAL_CHECKPOINT_PAGES": chance.choice(PAGES), "CHATLEDGER_WORKERS": workers}
            path = Path(folder) / "data" / "ledger.db"
            path.parent.mkdir()
            with _Life(path, journal, chance, findings, settings, bug) as life:
                for number in range(kills):
                    life.kill_once()
                    progress(done + number + 1, count)
                    if findings.violations and bug:
                        return findings.result()
                life.end()
        done += kills
    return findings.result()


class _Life:
    """A ledger that is killed again and again."""

    def __init__(
        self,
        path: Path,
        journal: Journal,
        chance: random.Random,
        findings: Findings,
        settings: dict[str, str],
        bug: str,
    ) -> None:
        self._path = path
        self._workers = settings["CHATLEDGER_WORKERS"]
        self._journal = journal
        self._chance = chance
        self._findings = findings
        self._server = WatchedServer(path, log=path.parent.parent / "server.log", bug=bug, env=settings)

    def __enter__(self) -> Self:
        self._server.start()
        with self._server.client() as client:
            create_shared(client)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def kill_once(self) -> None:
        journal, chance, findings = self._journal, self._chance, self._findings
        before = journal.acknowledged
        until(lambda: listening(self._server.port) == int(self._workers))  # behind the kill of one of several
        at_rest = chance.random() < 0.3  # behind the last answer, when nothing follows that could take it along
        with journal.writing(self._server):
            try:
                if chance.random() < 0.15:
                    self._begin_rebuild()
                journal.wait_for(chance.randrange(1, ACKNOWLEDGED_MAX))
                _pass(chance.uniform(0, 0.005))
            except AssertionError as error:
                findings.violation(f"under load: {error}; {journal.failures[:3]}")
            if not at_rest:
                self._kill()
        if at_rest:
            self._kill()
            findings.counts["kills at rest"] += 1
        findings.counts["kills"] += 1
        findings.counts["acknowledged"] += journal.acknowledged - before
        if self._server.is_gone:
            if chance.random() < 0.2:
                self._kill_a_start()
            self._server.start()
        with self._server.client() as client:
            with findings.checking("after a kill"):
                assert journal.failures == []
                check(journal.writes, all_messages(client))
            with findings.checking("retries after a kill"):
                retry(client, journal, chance, findings)
                check(journal.writes, all_messages(client))

    def _kill(self) -> None:
        """SIGKILL for the server; of several workers for one, or for all, or for their supervisor alone."""
        workers, chance, findings = children(self._server.pid), self._chance, self._findings
        target = chance.choice(["all", "supervisor", "worker"]) if workers else "all"
        if target == "worker":
            os.kill(chance.choice(workers), signal.SIGKILL)
            findings.counts["kills of one worker"] += 1
        elif target == "supervisor":
            os.kill(self._server.pid, signal.SIGKILL)
            self._server.wait()
            findings.counts["kills of a supervisor"] += 1
        else:
            self._server.kill()

    def end(self) -> None:
        """Stop in order, and look into the files."""
        with self._findings.checking("at the end"):
            assert self._server.stop() == 0, self._server.stderr[-2000:]
            with Store(self._path) as store:
                assert store.rebuilt is None, store.rebuilt
                assert wrong_leaves(store.ledger) == []
                assert dump(store.ledger) == dump_rebuilt(store, self._path.parent.parent), "the views are no replay"

    def _begin_rebuild(self) -> None:
        with self._server.client() as client:
            client.post("/v1/admin/projections/rebuild")
        self._findings.counts["kills while rebuilding"] += 1

    def _kill_a_start(self) -> None:
        process = self._server.spawn()
        _pass(self._chance.uniform(0.2, 0.9))
        process.kill()
        process.communicate()
        self._findings.counts["kills while starting"] += 1


def retry(client: httpx.Client, journal: Journal, chance: random.Random, findings: Findings) -> None:
    """Send again what nobody was told about, and some of what was acknowledged under a key."""
    for write in journal.unacknowledged():
        response = write.send(client)
        findings.counts["unknown outcomes"] += 1
        if write.creates and response.status_code == 409:  # it was there, and had no key to know it again by
            assert write.key is None, response.text
        else:
            assert response.status_code == 201, response.text
        write.acknowledged, write.answer = True, None
    known = [write for write in journal.writes if write.key is not None and write.answer is not None]
    for write in chance.sample(known, min(len(known), RETRIES_CHECKED)):
        response = write.send(client)
        findings.counts["retries"] += 1
        assert response.headers.get("idempotency-replayed") == "true", (response.status_code, response.text[:300])
        assert response.json() == write.answer, "another answer than the first one"


def _pass(seconds: float) -> None:
    """Let the moment of a fault come, which is no synchronisation."""
    time.sleep(seconds)
