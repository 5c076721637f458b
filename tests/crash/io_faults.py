"""Failing input and output: each call on a file in turn fails once, or from then on, and then the disk is well again.

What must be true: every command has an answer, and a clear one (StorageFull, OutcomeUnknown, Overloaded); starts and
tools work or refuse in words; reads go on where it is not them that fail; once the disk is well the next command is
committed, without a restart, or after one if it was the start that was refused; nothing acknowledged is lost, nothing
that was refused is there, of a group of unknown outcome there is all or nothing; views = rebuild; nothing hangs.
"""

import asyncio
import logging
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from unittest.mock import patch

import apsw
import msgspec
import structlog

from chatledger.domain.commands import AppendMessages, CreateSession
from chatledger.errors import (
    ChatledgerError,
    ErasurePending,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    RefusedToStart,
    StorageFull,
)
from chatledger.ledger import event_store
from chatledger.proofs.signed_heads import signer_of
from chatledger.storage import sql_errors
from chatledger.storage.connection import open_reader
from chatledger.storage.paths import Location
from chatledger.views.rebuilder import Rebuilder
from chatledger.writing import erasure_maintenance
from chatledger.writing import writer as writer_module
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.command_group import Committed, Submission
from chatledger.writing.committer import Committer, hold
from chatledger.writing.writer import Writer
from crash import seeded_bugs
from crash.findings import Findings, Progress, Result
from crash.invariants import Examiner
from crash.power_cuts import PROCESSES, fast_folder
from crash.scenarios import (
    BY_NAME,
    ERASED,
    erase,
    prepared,
    restore_here,
    sample,
    settings_of,
    take_backup,
)
from crash.shim import CODES_EIO, CODES_FULL, ERRNO, Call, disk_error, watched
from support.store import append, message

SECONDS_MAX = 60
"""No run takes longer, but for one that hangs."""
ANSWER_S = 20
CLEAR = (StorageFull, OutcomeUnknown, Overloaded)


@dataclass(frozen=True)
class Fault:
    """What goes wrong: `eio`, `full`, `short` (half is written, then it is full) or `sync`, once or from then on."""

    kind: str
    lasting: bool

    def hits(self, call: Call) -> bool:
        """Whether a call can go wrong that way."""
        match self.kind:
            case "full":
                return call.kind in ("write", "mkdir") or (call.kind == "open" and call.creates)
            case "short":
                return call.kind == "write" and len(call.data) > 1
            case "sync":
                return call.kind in ("sync", "sync_folder")
        return True


_KINDS = ("eio", "full", "sync")
FAULTS = (*(Fault(kind, lasting) for kind in _KINDS for lasting in (False, True)), Fault("short", lasting=False))


class Injector:
    """A watcher that lets call number `at` (from 1) go wrong."""

    def __init__(self, fault: Fault | None, at: int) -> None:
        self.calls: list[Call] = []
        self.hit: Call | None = None
        self.fault, self._at = fault, at
        self._lock = threading.Lock()
        self._count = 0

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self.fault = None

    def around(self, call: Call, act: Callable[[], int]) -> int:
        """Do it, or fail."""
        with self._lock:
            self._count += 1
            number, fault = self._count, self.fault
            if self._at == 0:
                self.calls.append(msgspec.structs.replace(call, data=call.data[:2]))
        due = fault is not None and (number == self._at or (fault.lasting and number > self._at))
        if fault is None or not due or not fault.hits(call):
            return act()
        self.hit = self.hit or call
        if fault.kind == "short":
            call.data = call.data[: len(call.data) // 2]
            act()
        full = fault.kind in ("full", "short")
        if call.sqlite:
            return (CODES_FULL if full else CODES_EIO)[call.kind]
        raise disk_error(ERRNO["full" if full else "eio"])


class House:
    """A server without HTTP, and what its clients know."""

    def __init__(self, root: Path, injector: Injector) -> None:
        self.root = root
        self.injector = injector
        self.wrong: list[str] = []
        self.sent: list[tuple[str, int, Any]] = []  # request id, events, outcome
        self.acknowledged = 0
        self.refused = ""
        self._runner = asyncio.Runner()
        self._reader: Any = None
        self._reading = ""
        self._stack = ExitStack()
        self._committer: Committer | None = None
        self._writer: Writer | None = None

    def note(self, what: str, error: BaseException) -> None:
        """An error that somebody was shown: it must be one of ours."""
        if not isinstance(error, ChatledgerError):
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")

    def start(self) -> bool:
        """Start as a server does; once more on a disk that is well, if it was refused."""
        for attempt in (1, 2):
            try:
                self._start()
            except Exception as error:  # noqa: BLE001  # what comes is judged
                self.note("start", error)
                if attempt == 2:
                    self.wrong.append(f"the start on a disk that is well again failed: {error!r}")
                self.injector.heal()
            else:
                return True
        return False

    def _start(self) -> None:
        settings = settings_of(self.root, wal_checkpoint_pages=10)
        location = Location.of(settings)
        with ExitStack() as stack:
            committer = stack.enter_context(hold(location, settings))
            committer.views.open(committer.ledger)
            events = event_store.head(committer.ledger).position
            signer_of(location, settings, event_store.identity(committer.ledger), events=events)
            rebuilder = Rebuilder(location, settings, committer.views)
            writer = Writer(committer, settings, Checkpointer(location, settings, committer.views), rebuilder)
            self._committer, self._writer = committer, writer

            async def begin() -> None:
                writer.start()

            self._runner.run(begin())
            stack.callback(self.wait, writer.close)
            self._stack = stack.pop_all()
        self.read()

    def wait(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The result of what takes no longer than it may."""
        return self._runner.run(asyncio.wait_for(work(), ANSWER_S))

    @property
    def writer(self) -> Writer:
        """It is started."""
        assert self._writer is not None
        return self._writer

    @property
    def committer(self) -> Committer:
        """The same."""
        assert self._committer is not None
        return self._committer

    def submit(self, *submissions: Submission) -> list[Any]:
        """Several at once; each answer must be a clear one."""
        named = []
        for submission in submissions:
            name = f"r{len(self.sent) + len(named)}"
            named.append(msgspec.structs.replace(submission, request_id=name))

        async def send() -> list[Any]:
            waiting = (self.writer.submit(each, size_bytes=100) for each in named)
            return await asyncio.gather(*waiting, return_exceptions=True)

        outcomes = self.wait(send)
        for submission, outcome in zip(named, outcomes, strict=True):
            self.sent.append((str(submission.request_id), _events_of(submission), outcome))
            if isinstance(outcome, Committed):
                self.acknowledged = max(self.acknowledged, self.committer.views.position)
            elif not isinstance(outcome, CLEAR) and not (isinstance(outcome, NotFound) and self._lacks_earlier()):
                self.wrong.append(f"an unclear answer: {outcome!r}")
        self.read()
        return list(outcomes)

    def _lacks_earlier(self) -> bool:
        """Whether a command before was refused, on which a later one may have built."""
        return any(isinstance(outcome, CLEAR) for _, _, outcome in self.sent)

    def _follow_views(self) -> None:
        """Readers stay open, as a server's do, and go over to views that were built anew."""
        name = self.committer.views.name
        if name == self._reading:
            return
        try:
            reader = open_reader(name, self.committer.location, self.committer.settings)
        except RefusedToStart:
            # SQLite has to make its shared memory, for which a full disk has no room: the old views go on.
            if self._reader is None or self.injector.fault is None:
                raise
            return
        if self._reader is not None:
            self._reader.close()
        self._reader, self._reading = reader, name

    def read(self) -> None:
        """A reader sees all that was acknowledged, if it is not reading that fails."""
        fault = self.injector.fault
        try:
            self._follow_views()
            position = int(self._reader.execute("SELECT position FROM views").get)
            self._reader.execute("SELECT count(*), sum(length(payload)) FROM messages").fetchall()
        except (RefusedToStart, apsw.Error) as error:
            if isinstance(error, apsw.Error) and sql_errors.to_domain_error(error) is None:
                self.wrong.append(f"an unclear answer to a read: {error!r}")
            if fault is None or fault.kind != "eio":
                self.wrong.append(f"a read failed: {error!r}")
        else:
            if position < self.acknowledged and self._reading == self.committer.views.name:
                self.wrong.append(f"a reader sees position {position}, {self.acknowledged} was acknowledged")

    def rebuild(self) -> None:
        """Build the views anew beside, and swap."""
        self.writer.rebuild()
        until = monotonic() + ANSWER_S
        while self.writer.rebuilder.progress is not None and monotonic() < until:
            sleep(0.0005)
        if self.writer.rebuilder.progress is not None:
            self.wrong.append("a rebuild hangs")

    def go_on(self) -> None:
        """The disk is well: the next command is done, and what was left undone too."""
        self.injector.heal()
        (outcome,) = self.submit(append("s0", message(f"healed-{len(self.sent)}")))
        if not isinstance(outcome, Committed):
            self.wrong.append(f"a command on a disk that is well again: {outcome!r}")
        until = monotonic() + ANSWER_S
        while monotonic() < until:
            try:
                self.wait(self.writer.erased)
            except ErasurePending:
                sleep(0.01)
            else:
                return
        self.wrong.append("an erasure is not finished on a disk that is well again")

    def stop(self) -> None:
        """Stop as a server does."""
        try:
            if self._reader is not None:
                self._reader.close()
            self._stack.close()
        except Exception as error:  # noqa: BLE001  # what comes is judged
            self.note("stop", error)


def _events_of(submission: Submission) -> int:
    command = submission.command
    if isinstance(command, CreateSession):
        return 1 + len(command.messages)
    return len(command.messages) if isinstance(command, AppendMessages) else 1


@contextmanager
def _impatient() -> Iterator[None]:
    """What the writer tries again it tries again soon."""
    with (
        patch.object(writer_module, "CATCH_UP_PAUSE_S", 0.02),
        patch.object(erasure_maintenance, "HELD_PAUSE_S", 0.02),
        patch.object(erasure_maintenance, "FAILURE_PAUSE_S", 0.02),
    ):
        yield


def _serve(house: House, groups: Sequence[Sequence[Submission]], *, rebuild: bool = False) -> None:
    if not house.start():
        return
    for number, group in enumerate(groups):
        house.submit(*group)
        if rebuild and number == 0:
            house.rebuild()
    house.go_on()
    house.stop()


def _stop(house: House) -> None:
    """The fault may come while it stops, too."""
    if house.start():
        house.submit(append("s0", message("before-the-stop")))
        house.stop()


def _tool(house: House, work: Callable[[], Any], again: Callable[[], Any]) -> None:
    try:
        work()
    except Exception as error:  # noqa: BLE001  # what comes is judged
        house.note("tool", error)
        house.injector.heal()
        try:
            again()
        except RefusedToStart as refused:  # a failed sync of the folder: it has its name already
            house.refused = str(refused)
    house.injector.heal()


def _backup(house: House) -> None:
    _tool(house, lambda: take_backup(house.root), lambda: take_backup(house.root))
    path = house.root / "backups" / "copy.db"
    if not path.exists():
        house.wrong.append(f"a backup on a disk that is well again was not made: {house.refused}")


def _restored(name: str, to_position: int | None) -> Callable[[House], None]:
    def restore(house: House) -> None:
        _tool(
            house,
            lambda: restore_here(house.root, name, to_position),
            lambda: restore_here(house.root, name, to_position),
        )
        if not Path(settings_of(house.root).database_path).exists():
            house.wrong.append(f"a restore on a disk that is well again was not done: {house.refused}")

    return restore


PLAYS: dict[str, tuple[str, Callable[[House], None]]] = {
    "commits": ("commits", lambda house: _serve(house, sample(1))),
    "erasure": ("erasure", lambda house: _serve(house, [[erase(ERASED)], [append("s0", message("later"))]])),
    "rebuild": ("rebuild", lambda house: _serve(house, sample(1)[:2], rebuild=True)),
    "start after a migration": ("migration from 1", lambda house: _serve(house, sample(1)[:1])),
    "start without views": ("start without views", lambda house: _serve(house, sample(1)[:1])),
    "stop": ("commits", _stop),
    "backup": ("backup", _backup),
    "restore": ("restore of what was erased", _restored("copy.db", None)),
    "restore to a position": ("restore to a position", _restored("erased.db", 20)),
}
"""What is done, behind the scenario of the power cuts whose beginning it has."""


def _judge(house: House, examiner: Examiner) -> list[str]:
    """Start on what is there now."""
    found = examiner.examine(house.root, go_on=True)
    if found.failure:
        return [f"the start afterwards failed: {found.failure}"]
    wrong = [f"the views differ from a rebuild in {found.differing}"] if found.differing else []
    if not found.erased or found.canary_in:
        wrong.append(f"what was erased is not gone: {found.canary_in}")
    wrong += [f"{name} cannot be used: {size}" for name, size in found.backups.items() if isinstance(size, str)]
    names = [row[9] for row in found.rows]
    order = [name for name, _, _ in house.sent if name in names]
    if list(dict.fromkeys(name for name in names if name in set(order))) != order:
        wrong.append("events are not in the order of their commands")
    for name, events, outcome in house.sent:
        count = names.count(name)
        allowed = {events} if isinstance(outcome, Committed) else {0}
        if isinstance(outcome, OutcomeUnknown):
            allowed = {0, events}
        if count not in allowed:
            wrong.append(f"{count} events of a command that was answered {outcome!r}, not {allowed}")
    return wrong


class Theatre:
    """Plays one of `PLAYS` again and again, each time with another fault."""

    def __init__(self, play: str, scratch: Path) -> None:
        beginning, self._act = PLAYS[play]
        self._scenario = BY_NAME[beginning]
        self._scratch = scratch
        self._template = scratch / "template"
        self._template.mkdir()
        prepared(self._scenario, self._template)
        self._examiner = Examiner(self._scenario, scratch)

    def run(self, fault: Fault | None, at: int) -> tuple[list[str], Injector]:
        """What is wrong when call number *at* fails."""
        root = self._scratch / "house"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self._template, root)
        injector = Injector(fault, at)
        house = House(root, injector)
        try:
            with _limited(), _impatient(), watched(root, injector):
                self._act(house)
        except Exception as error:  # noqa: BLE001  # a hang, or what nobody expects
            house.wrong.append(f"no answer: {type(error).__name__}: {error}")
            with suppress(Exception):
                house._stack.close()
        house._runner.close()
        return house.wrong + _judge(house, self._examiner), injector


@contextmanager
def _limited() -> Iterator[None]:
    """End what hangs, in the main thread of a process."""

    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_MAX)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _do(play: str, seed: int, count: int, bug: str | None) -> tuple[Counter[str], list[str]]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    counts: Counter[str] = Counter()
    violations = []
    scratch = fast_folder()
    try:
        with seeded_bugs.put_in(bug):
            theatre = Theatre(play, scratch)
            wrong, injector = theatre.run(None, 0)
            assert not wrong, f"{play} without a fault: {wrong}"
            cases = [(at, fault) for at, call in enumerate(injector.calls, 1) for fault in FAULTS if fault.hits(call)]
            counts["calls"] = len(injector.calls)
            counts["cases"] = len(cases)
            chosen = sorted(random.Random(f"{seed}/{play}").sample(range(len(cases)), min(count, len(cases))))
            for number in chosen:
                at, fault = cases[number]
                wrong, injector = theatre.run(fault, at)
                counts["faults"] += 1
                counts["faults that were met"] += injector.hit is not None
                if wrong:
                    call = injector.calls[at - 1] if injector.calls else injector.hit
                    what = "" if call is None else f"{call.kind} {Path(call.path).name}"
                    lasting = "from then on" if fault.lasting else "once"
                    violations.append(
                        f"{play!r}, seed {seed}, call {at} ({what}), {fault.kind} {lasting}: {'; '.join(wrong[:3])}"
                    )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts, violations


def run_io_faults(
    count: int,
    seed: int,
    progress: Progress,
    *,
    bug: str | None = None,
    plays: Sequence[str] = (),
    processes: int = PROCESSES,
) -> Result:
    """Let *count* faults happen, chosen by chance, or all that there can be if these are fewer.

    Args:
        count: How many.
        seed: Of the choice.
        progress: Called with the faults done, and those to do.
        bug: One to put into the code (`seeded_bugs.py`).
        plays: Those of `PLAYS` to play; all by default.
        processes: How many work at a time.
    """
    findings = Findings("failing calls", seed)
    names = list(plays or PLAYS)
    part = -(-count // len(names))
    done = 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_do, name, seed, part, bug) for name in names]):
            counts, violations = future.result()
            findings.counts.update(counts)
            for violation in violations:
                findings.violation(violation)
            done += counts["faults"]
            progress(done, max(done, count))
    return findings.result()
