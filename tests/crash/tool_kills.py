"""Real kills of the commands that rebuild, import and back up: run again they finish, and nothing is there twice."""

import os
import random
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from chatledger.errors import ChatledgerError
from chatledger.ledger import event_store
from chatledger.proofs.verification import verify_ledger
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors
from chatledger.storage.paths import Location
from crash.findings import Findings, Progress, Result, quiet
from support.altered import WatchedServer, command_of, environment
from support.command import write_lines
from support.journal import Journal, check, create_shared
from support.store import Store
from support.tables import Rows, dump, wrong_leaves

SESSIONS = 1_500
MESSAGES = 8
EVENTS = SESSIONS * (1 + MESSAGES)
WRITERS = 2
SIGHT_MS_MAX = 30
"""Behind the first file that a command makes, it is killed within this time: there the copying goes on."""


def run_tool_kills(
    count: int,
    seed: int,
    progress: Progress = quiet,
    *,
    bug: str = "",
    tools: tuple[str, ...] = ("replay", "import", "backup"),
) -> Result:
    """Kill each of *tools* in turn at random moments, *count* times in all, and look what it has left."""
    findings = Findings("kills of commands" + (f" with {bug}" if bug else ""), seed)
    with tempfile.TemporaryDirectory(prefix="tool-kills-") as folder:
        bench = _Bench(Path(folder), random.Random(seed), findings, bug)
        bench.prepare()
        trials = {"replay": bench.replay, "import": bench.import_, "backup": bench.backup}
        for number in range(count):
            tool = tools[number % len(tools)]
            place = Path(folder) / "trial"
            place.mkdir()
            trials[tool](place)
            shutil.rmtree(place)
            progress(number + 1, count)
            if findings.violations and bug:
                break
    return findings.result()


class _Bench:
    """A ledger to work on, and how long each command takes with it when nobody kills it."""

    def __init__(self, folder: Path, chance: random.Random, findings: Findings, bug: str) -> None:
        self._folder = folder
        self._chance = chance
        self._findings = findings
        self._env = environment(bug)
        self._takes_s: dict[str, float] = {}
        self._lines = folder / "sessions.jsonl"
        self._base = folder / "base"
        self._rows: dict[str, Rows] = {}
        self._sessions: list[dict[str, Any]] = []

    def prepare(self) -> None:
        """Import the ledger, and time each command."""
        self._sessions = [
            {
                "id": f"s{number}",
                "messages": [
                    {"role": "user", "content": f"{number}/{part} " + "x" * self._chance.randrange(300)}
                    for part in range(MESSAGES)
                ],
            }
            for number in range(SESSIONS)
        ]
        write_lines(self._lines, self._sessions)
        self._base.mkdir()
        path = self._base / "ledger.db"
        self._takes_s["import"] = self._time("import", self._lines, at=path)
        self._takes_s["replay"] = self._time("replay", at=path)
        self._takes_s["backup"] = self._time("backup", self._folder / "first.db", at=path)
        self._takes_s["nothing"] = self._time("status", at=path)
        with Store(path) as store:
            self._rows = dump(store.ledger)

    def replay(self, place: Path) -> None:
        """The views are whole, and what they were, whatever generation they are."""
        path = self._copy(place)
        for _ in range(self._chance.randrange(1, 4)):
            self._kill("replay", at=path)
        with self._findings.checking("after a killed replay"), Store(path) as store:
            assert store.rebuilt is None, f"the views were built anew: {store.rebuilt}"
            assert dump(store.ledger) == self._rows, "the views are others than before"
            assert not list(place.glob("*.building*")), "something unfinished is left"
            assert len(list(place.glob("*.views.*.db"))) == 1

    def import_(self, place: Path) -> None:
        """Run again it finishes: each session is there once, whole and as it was in the file."""
        path = place / "ledger.db"
        for _ in range(self._chance.randrange(1, 4)):
            self._kill("import", self._lines, at=path)
        with self._findings.checking("after a killed import"):
            done = self._run("import", self._lines, at=path)
            assert done.returncode == 0, done.stderr[-500:]
            with Store(path) as store:
                assert event_store.head(store.ledger).position == EVENTS, (
                    f"{event_store.head(store.ledger).position} events"
                )
                found = store.views.db.execute(
                    """SELECT s.id, m.payload ->> '$.message.role', m.payload ->> '$.message.content'
                    FROM views.messages AS m JOIN views.sessions AS s ON s.key = m.session_id ORDER BY m.position"""
                ).fetchall()
                assert found == [
                    (session["id"], message["role"], message["content"])
                    for session in self._sessions
                    for message in session["messages"]
                ], "other messages than in the file"
                assert wrong_leaves(store.ledger) == []

    def backup(self, place: Path) -> None:
        """What has the name is a whole backup; the source is unharmed, and a server that writes to it loses nothing."""
        path, dest = self._copy(place), place / "copy.db"
        beside = self._chance.random() < 0.5
        journal = Journal(self._chance.randrange(10**9), writers=WRITERS)
        with ExitStack() as stack:
            if beside:
                server = stack.enter_context(WatchedServer(path, log=self._folder / "server.log"))
                with server.client() as client:
                    create_shared(client)
                stack.enter_context(journal.writing(server))
                self._findings.counts["backups beside a server"] += 1
            for _ in range(self._chance.randrange(1, 3)):
                self._kill("backup", dest, at=path)
                self._look_at_backup(dest)
                dest.unlink(missing_ok=True)
        with self._findings.checking("after a killed backup"):
            done = self._run("backup", dest, at=path)
            assert done.returncode == 0, done.stderr[-500:]
            self._look_at_backup(dest)
            with Store(path) as store:
                assert wrong_leaves(store.ledger) == []
                check(journal.writes, _stored(store, of=journal), complete=False)
                assert event_store.head(store.ledger).position >= EVENTS

    def _look_at_backup(self, dest: Path) -> None:
        if not dest.exists():
            return
        self._findings.counts["backups that were done"] += 1
        settings = Settings(database_path=str(dest))
        try:
            with closing(ledger_file.open_ledger_reader(Location(str(dest), memory=False), settings)) as connection:
                size = verify_ledger(connection, progress=lambda *_: None).size
        except (ChatledgerError, sql_errors.SQLError) as error:
            self._findings.violation(f"a backup that is none: {error}")
            return
        if size < EVENTS:
            self._findings.violation(f"a backup of {size} of {EVENTS} events")

    def _copy(self, place: Path) -> Path:
        shutil.copytree(self._base, place, dirs_exist_ok=True)
        return place / "ledger.db"

    def _kill(self, command: str, *arguments: object, at: Path) -> None:
        """At any moment, from the end of its beginning to a little behind its end; or soon after its first file."""
        seconds = self._chance.uniform(0.7 * self._takes_s["nothing"], 1.05 * self._takes_s[command])
        sight_s = self._chance.uniform(0, SIGHT_MS_MAX / 1000) if self._chance.random() < 0.5 else None
        before = set(at.parent.iterdir())
        with (self._folder / "command.log").open("ab") as log:
            process = subprocess.Popen(
                self._command(command, *arguments, at=at),
                cwd=self._folder,
                env={**os.environ, **self._env},
                stdout=log,
                stderr=log,
            )
        if sight_s is not None:
            while process.poll() is None and set(at.parent.iterdir()) <= before:
                time.sleep(0.0005)  # between two looks
            seconds = sight_s
        try:
            process.wait(timeout=seconds)
            self._findings.counts[f"{command} done before its kill"] += 1
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._findings.counts[f"{command} killed"] += 1

    def _run(self, command: str, *arguments: object, at: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self._command(command, *arguments, at=at),
            cwd=self._folder,
            env={**os.environ, **self._env},
            capture_output=True,
            text=True,
            check=False,
        )

    def _time(self, command: str, *arguments: object, at: Path) -> float:
        began_s = time.monotonic()
        done = self._run(command, *arguments, at=at)
        assert done.returncode == 0, done.stderr
        return time.monotonic() - began_s

    def _command(self, command: str, *arguments: object, at: Path) -> list[str]:
        return [*command_of(self._env), command, "--database", str(at), *map(str, arguments)]


def _stored(store: Store, *, of: Journal) -> dict[str, list[dict[str, Any]]]:
    """The messages of the journal's sessions, as the check wants them."""
    found: dict[str, list[dict[str, Any]]] = {}
    wanted = {write.session for write in of.writes}
    rows = store.views.db.execute(
        """SELECT s.id, m.seq, m.id, m.payload ->> '$.message.content' FROM views.messages AS m
        JOIN views.sessions AS s ON s.key = m.session_id ORDER BY s.key, m.seq"""
    )
    for session, seq, name, content in rows:
        if session in wanted:
            found.setdefault(session, []).append({"id": name, "seq": seq, "content": content})
    return found
