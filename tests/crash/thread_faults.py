"""A fault in each thread of a server, at each call that it makes outside itself: log, clock, queue, metrics, SQLite.

What must be true: every request has an answer, and soon; what was acknowledged is there, of what was refused nothing,
of an unknown outcome all or nothing; the service goes on by itself (the next write is committed, the next read is
answered, a rebuild done, an erasure finished) and stops in order. Then everything is looked at as behind a crash.
"""

import asyncio
import os
import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec

from chatledger import threads
from chatledger.errors import DomainError, ErasurePending
from chatledger.ledger import api_key_store
from chatledger.observability import logs
from chatledger.observability.log_sink import LogSink
from chatledger.observability.metrics import Histogram
from chatledger.reading.readers import Readers
from chatledger.storage.paths import Location, exclusive
from chatledger.views import rebuilder as rebuilder_module
from chatledger.views.rebuilder import Rebuilder
from chatledger.workers.shared_state import Board
from chatledger.writing import erasure_maintenance
from chatledger.writing import writer as writer_module
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.command_group import Committed, Submission
from chatledger.writing.committer import join, opened
from chatledger.writing.writer import Writer
from crash.call_faults import FAILURES, LOOP, CallFaults, Fault, HardFault
from crash.findings import Findings, Progress, Result
from crash.invariants import Examiner
from crash.io_faults import _events_of, _judge
from crash.power_cuts import PROCESSES, fast_folder
from crash.scenarios import BY_NAME, ERASED, erase, prepared, sample, settings_of
from support import seeded_bugs
from support.store import append, message

T = TypeVar("T")
ANSWER_S = 20.0
ANSWER_OF_BUG_S = 2.0
TRIES = 5
"""So often a client repeats what had no clear outcome."""
ANSWERS = (DomainError, Fault, OSError, MemoryError, RuntimeError)
"""What an answer can be made of; the last ones are 500 to a client. StopIteration arrives as a RuntimeError."""
_READ = "SELECT position FROM views"
_IN_LOOP = ("submit", "erased", "deliver", "settle", "run", "_refuse_the_rest")
"""What the event loop's thread does for others' requests too; a fault elsewhere is one request's own."""


class Hang(Exception):
    """Somebody waits for a thread that does not answer."""


class House:
    """A server without HTTP, and what its clients know. `sent` and `wrong` are for the judge of `io_faults.py`."""

    def __init__(self, root: Path, faults: CallFaults, answer_s: float) -> None:
        self.root = root
        self.wrong: list[str] = []
        self.sent: list[tuple[str, int, Any]] = []
        self.faults = faults
        self._answer_s = answer_s
        self._gone: list[bool] = []

    @contextmanager
    def serving(self, *, shared: bool) -> Iterator[None]:
        """The parts of a server, *shared* as one of several workers has them."""
        settings = settings_of(self.root, wal_checkpoint_pages=10, readers=2)
        location = Location.of(settings)
        with ExitStack() as stack:
            stack.enter_context(exclusive(location))
            board: Board | None = None
            if shared:
                with opened(location, settings) as first:
                    first.views.open(first.ledger)
                    board = Board.new(generation=first.views.generation, position=first.views.position)
                self.committer = stack.enter_context(join(location, settings, board))
            else:
                self.committer = stack.enter_context(opened(location, settings))
                self.committer.views.open(self.committer.ledger)
            views = self.committer.views
            rebuilder = Rebuilder(location, settings, views, board)
            self.writer = Writer(self.committer, settings, Checkpointer(location, settings, views), rebuilder)
            self.writer.on_gone = lambda: self._gone.append(True)
            self.readers = Readers(location, settings, board or views, on_damage=self.writer.repair)
            yield

    async def soon(self, work: Awaitable[T], what: str) -> T:
        """What *work* returns or raises, which has to be soon."""
        try:
            return await asyncio.wait_for(work, self._answer_s)
        except TimeoutError:
            raise Hang(f"no answer to {what}") from None

    async def submit(self, *submissions: Submission) -> list[Any]:
        """Several at once."""
        named = []
        for submission in submissions:
            name = f"r{len(self.sent) + len(named)}"
            named.append(msgspec.structs.replace(submission, request_id=name))
        waiting = [self.writer.submit(each, size_bytes=100) for each in named]
        outcomes = await self.soon(asyncio.gather(*waiting, return_exceptions=True), "a write")
        for submission, outcome in zip(named, outcomes, strict=True):
            if isinstance(outcome, BaseException):  # frames hold statements, as a client far away does not
                outcome.__traceback__ = outcome.__context__ = outcome.__cause__ = None
            self.sent.append((str(submission.request_id), _events_of(submission), outcome))
            if not isinstance(outcome, (Committed, *ANSWERS, HardFault)):
                self.wrong.append(f"an answer that is none: {outcome!r}")
        return outcomes

    async def read(self) -> int | None:
        """The position that a reader of the pool sees; None where the read was refused."""
        work = self.readers.run(lambda views, _ledger: int(views.execute(_READ).get))
        try:
            return await self.soon(work, "a read")
        except (*ANSWERS, HardFault, StopIteration):
            return None

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until it holds, which has to be soon."""
        until_s = time.monotonic() + self._answer_s
        while not holds():
            if time.monotonic() > until_s:
                raise Hang(what)
            await asyncio.sleep(0.001)

    async def rebuild(self) -> bool:
        """Have the views built anew beside, and wait for the end; whether there are new ones."""
        before = self.committer.views.generation
        try:
            self.writer.rebuild()
        except ANSWERS:
            return False
        await self.until(lambda: self.writer.rebuilder.progress is None, "a rebuild does not end")
        return self.committer.views.generation > before

    async def erased(self) -> bool:
        """Whether all that was erased is gone."""
        try:
            await self.soon(self.writer.erased(), "an erasure")
        except (ErasurePending, *ANSWERS, HardFault):
            return False
        return True

    async def repeated(self, work: Callable[[], Awaitable[bool]], what: str) -> None:
        """A client that tries again has success, by and by."""
        for _ in range(TRIES):
            if await work():
                return
        self.wrong.append(f"in {TRIES} tries there is no {what}")

    async def _commit_one(self) -> bool:
        (outcome,) = await self.submit(append("s0", message(f"again-{len(self.sent)}")))
        return isinstance(outcome, Committed)

    async def _read_all(self) -> bool:
        return await self.read() == self.committer.views.position

    async def go_on(self) -> None:
        """The fault is over: everything works."""
        await self.repeated(self._commit_one, "write that is committed")
        await self.repeated(self._read_all, "read")
        until_s = time.monotonic() + self._answer_s
        while not await self.erased():
            if time.monotonic() > until_s:
                raise Hang("an erasure is never finished")
        await self.repeated(self.rebuild, "rebuild")  # an erasure cancels it
        if self._gone:
            self.wrong.append("the writer has ended")
        if not self.writer.alive:
            self.wrong.append("the writer is not alive")
        if self.writer.queue_length:
            self.wrong.append(
                f"{self.writer.queue_length} commands are in the queue of a writer that has nothing to do"
            )


async def _commits(house: House) -> None:
    for number, group in enumerate(sample(1)):
        await house.submit(*group)
        if number % 4 == 0:
            house.writer.put(lambda db: api_key_store.write(db, {"k_1": 1}))
            await house.read()


async def _erases(house: House) -> None:
    await house.submit(erase(ERASED))
    await house.erased()
    await house.submit(append("s0", message("t9")))


async def _rebuilds(house: House) -> None:
    await house.submit(append("s0", message("t1")))
    await house.rebuild()
    await house.submit(append("s0", message("t9")))


async def _repairs(house: House) -> None:
    await house.submit(append("s0", message("t1")))
    house.writer.repair()
    await house.submit(append("s0", message("t9")))


async def _dies(house: House) -> None:
    """The writer has died behind a commit, as of a bug; what the harness lets fail is what it does then."""
    house.faults.armed = False
    observe = Histogram.observe

    def die(histogram: Histogram, value: float) -> None:
        Histogram.observe = observe  # type: ignore[method-assign]
        house.faults.armed = True
        raise HardFault(histogram, value)

    await house.submit(append("s0", message("t1")))
    Histogram.observe = die  # type: ignore[method-assign]
    await house.submit(append("s0", message("t2")), append("s0", message("t3")))
    await house.submit(append("s0", message("t9")))


@dataclass(frozen=True)
class Play:
    """What is done while calls of the threads of these names fail; *shared* by one of several workers."""

    act: Callable[[House], Coroutine[Any, Any, None]]
    threads: tuple[str, ...]
    shared: bool = False


PLAYS = {
    "commits": Play(_commits, ("writer", "checkpointer", "reader", LOOP)),
    "commits of a worker": Play(_commits, ("writer",), shared=True),
    "erasure": Play(_erases, ("writer", LOOP)),
    "rebuild": Play(_rebuilds, ("writer", "rebuild", "build", "log")),
    "rebuild of a worker": Play(_rebuilds, ("writer", "rebuild"), shared=True),
    "repair": Play(_repairs, ("writer", "build")),
    "recovery": Play(_dies, ("writer",)),
    "recovery of a worker": Play(_dies, ("writer",), shared=True),
}


class Theatre:
    """Plays one of `PLAYS` again and again, each time with another fault."""

    def __init__(self, scratch: Path, answer_s: float) -> None:
        self._scratch = scratch
        self._answer_s = answer_s
        self._template = scratch / "template"
        self._template.mkdir()
        scenario = BY_NAME["writer"]
        prepared(scenario, self._template)
        self._examiner = Examiner(scenario, scratch)

    def run(self, play: Play, faults: CallFaults) -> list[str]:
        """What is wrong."""
        root = self._scratch / "house"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self._template, root)
        house = House(root, faults, self._answer_s)
        loop = asyncio.new_event_loop()
        with _logging_to(self._scratch / "log") as sink, _impatient():
            try:
                with faults.watching(), house.serving(shared=play.shared):
                    loop.run_until_complete(_lived(house, play))
            except Hang as hang:  # its threads are left alone: to join them would hang as well
                return [*house.wrong, str(hang)]
            except BaseException as error:  # noqa: BLE001  # whatever it is, it has no place here
                return [*house.wrong, f"it ended with {error!r}"]
            loop.close()
            sink.write(b"the end\n")
            sink.flush(self._answer_s)
            if not (self._scratch / "log").read_bytes().endswith(b"the end\n"):
                house.wrong.append("the log's last line is not there")
        return house.wrong + _judge(house, self._examiner)  # type: ignore[arg-type]  # as much of a house as it needs


async def _lived(house: House, play: Play) -> None:
    """The life of a server: start, what the play does, that it goes on, and its end."""
    house.writer.start()
    await play.act(house)
    house.faults.armed = False
    await house.go_on()
    house.readers.close()
    await house.soon(house.writer.close(), "the stop")
    await asyncio.get_running_loop().shutdown_default_executor()


@contextmanager
def _logging_to(path: Path) -> Iterator[LogSink]:
    """Have the log in a file, by a sink of its own."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    sink = LogSink(descriptor)
    with patch.object(logs, "STANDARD_ERROR", sink):
        logs.set_up("debug", form="json")
        try:
            yield sink
        finally:
            sink.close()
            os.close(descriptor)


@contextmanager
def _impatient() -> Iterator[None]:
    """What is tried again is tried again soon."""
    with (
        patch.object(writer_module, "CATCH_UP_PAUSE_S", 0.01),
        patch.object(erasure_maintenance, "HELD_PAUSE_S", 0.01),
        patch.object(erasure_maintenance, "FAILURE_PAUSE_S", 0.01),
        patch.object(rebuilder_module, "STOP_WAIT_S", 2.0),
        patch.object(threads, "PAUSE_S", 0.001),
    ):
        yield


def _only_of(thread: str) -> Sequence[str]:
    return _IN_LOOP if thread == LOOP else ()


def _do(name: str, seed: int, count: int, bug: str, answer_s: float) -> tuple[Counter[str], list[str]]:
    sys.unraisablehook = threading.excepthook = lambda _: None  # of faults that nobody has to catch
    counts: Counter[str] = Counter()
    violations: list[str] = []
    scratch = fast_folder()
    play = PLAYS[name]
    try:
        theatre = Theatre(scratch, answer_s)
        for thread in play.threads:
            only = _only_of(thread)
            faults = CallFaults(thread, 0, Fault, only)
            wrong = theatre.run(play, faults)
            assert not wrong, f"{name} without a fault: {wrong}"
            counts["calls"] += len(faults.calls)
            cases = [(at, kind) for at in range(1, len(faults.calls) + 1) for kind in FAILURES]
            chosen = random.Random(f"{seed}/{name}/{thread}").sample(
                cases, min(-(-count // len(play.threads)), len(cases))
            )
            if bug:
                seeded_bugs.BUGS[bug]()
            for at, kind in sorted(chosen):
                faults = CallFaults(thread, at, FAILURES[kind], only)
                wrong = theatre.run(play, faults)
                counts["faults"] += 1
                counts["faults that were met"] += bool(faults.hit)
                if wrong:
                    where = f"{name!r}, seed {seed}, thread {thread!r}, call {at} ({faults.hit}), {kind}"
                    violations.append(f"{where}: {'; '.join(wrong[:3])}")
                    if bug:
                        return counts, violations
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts, violations


def run_thread_faults(
    count: int,
    seed: int,
    progress: Progress,
    *,
    bug: str = "",
    plays: Sequence[str] = (),
    processes: int = PROCESSES,
) -> Result:
    """Let *count* faults happen, chosen by chance, or all that there can be if these are fewer.

    Args:
        count: How many.
        seed: Of the choice.
        progress: Called with the faults done, and those to do.
        bug: One to put into the code (`support/seeded_bugs.py`).
        plays: Those of `PLAYS` to play; all by default.
        processes: How many work at a time.
    """
    findings = Findings("faults in threads" + (f" with {bug}" if bug else ""), seed)
    names = list(plays or PLAYS)
    part, answer_s = -(-count // len(names)), ANSWER_OF_BUG_S if bug else ANSWER_S
    done = 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_do, name, seed, part, bug, answer_s) for name in names]):
            counts, violations = future.result()
            findings.counts.update(counts)
            for violation in violations:
                findings.violation(violation)
            done += counts["faults"]
            progress(done, max(done, count))
    return findings.result()
