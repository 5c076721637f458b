"""The writer thread: all that waits goes into one transaction (group commit).

Requests come from the event loop; their outcomes go back to it with one wake-up for each group, not one for each
request. Under load the groups grow by themselves: while one is synced, the next one gathers.
"""

import asyncio
import enum
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeAlias

import msgspec
import structlog

from service import database, erasure, ledger
from service.byte_budget import BODY_TIMES, ByteBudget
from service.checkpointer import Checkpointer
from service.commands import EraseSession
from service.committer import Committer
from service.database import Connection
from service.errors import ChatledgerError, DomainError, ErasurePending, OutcomeUnknown, Overloaded, StorageFull
from service.group import Committed, Outcome, Replayed, Submission
from service.keys import KeyRing
from service.metrics import SECONDS, SIZES, Histogram
from service.rebuilder import Rebuilder
from service.settings import Settings

log = structlog.get_logger("chatledger.writer")

CATCH_UP_PAUSE_S = 1.0
"""How long the writer waits before it tries again to bring views up to date that could not follow."""

ERASE_AGAIN_S = 1.0
"""How long until the writer tries again to finish an erasure while somebody holds the files' logs."""
ERASE_AGAIN_AFTER_FAILURE_S = 60.0
"""The same where it failed, as on a full disk: to write the files anew is much work to do in vain."""

Failure: TypeAlias = BaseException


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    submission: Submission
    size_bytes: int
    since_s: float
    future: "asyncio.Future[Committed | Replayed]"


class _Erased(msgspec.Struct, frozen=True, gc=False):
    """Somebody wants to know whether the erasures before it are finished."""

    future: "asyncio.Future[bool]"


class _Job(msgspec.Struct, frozen=True, gc=False):
    """Something to do in a transaction on the ledger that is no command."""

    work: Callable[[Connection], None]


class _Signal(enum.Enum):
    STOP = enum.auto()
    REPAIR = enum.auto()
    SWAP = enum.auto()


class WriterStats:
    """Counters of the writer, for /metrics. Written by one thread, read by any."""

    def __init__(self) -> None:
        self.groups = 0
        self.commands = 0
        self.events = 0
        self.failures = 0
        self.lag_events = 0
        """How many events the views lacked after the last failure, until they have caught up."""
        self.group_commands = Histogram(SIZES)
        self.queue_wait_s = Histogram(SECONDS)
        self.commit_s = Histogram(SECONDS)


class Writer:
    """One thread with the committer, and the bounded queue before it."""

    def __init__(
        self,
        committer: Committer,
        settings: Settings,
        checkpointer: Checkpointer,
        rebuilder: Rebuilder,
        *,
        keys: Callable[[], KeyRing] | None = None,
    ) -> None:
        """Make it; where other workers change API keys too, *keys* are those that there are now."""
        self.stats = WriterStats()
        self.rebuilder = rebuilder
        self._checkpointer = checkpointer
        self._committer = committer
        self._settings = settings
        self._queue: SimpleQueue[_Waiting | _Erased | _Job | _Signal] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._closing = False
        self._repairing = False
        self._damaged_generation = 0
        self._keys = keys
        self._behind = False
        self._erasing = True  # a crash may have left an erasure to finish
        self._erase_again_s = 0.0
        # Both are touched by the loop's thread only.
        self._waiting_commands = 0
        self.budget = ByteBudget(settings.queue_bytes_max)
        """What requests take in memory from their first byte until their answer."""

    def start(self) -> None:
        """Start the thread. Call it from the event loop that requests come from."""
        self._loop = asyncio.get_running_loop()
        self._checkpointer.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive() and not self._closing and self._committer.is_open

    @property
    def keys(self) -> KeyRing:
        """The API keys that there are now. Another value takes its place with each change."""
        return self._committer.keys if self._keys is None else self._keys()

    @property
    def queue_length(self) -> int:
        """The commands whose outcome is not known yet."""
        return self._waiting_commands

    @property
    def held_pages(self) -> int:
        """The pages of a write-ahead log that cannot begin anew because somebody reads it; 0 as a rule."""
        return self._checkpointer.held_pages

    async def submit(self, submission: Submission, *, size_bytes: int, copied_bytes: int = 0) -> Committed | Replayed:
        """Wait for *submission* to be durable and readable. Cancelling the wait does not cancel the write.

        It comes from a body of *size_bytes*, which its request holds in the budget; *copied_bytes* that were read from
        the ledger come on top, at most half of the budget, so that there is room for the longest copy.

        Raises:
            DomainError: it was refused, the queue is full, or the storage failed.
        """
        if self._closing or self._loop is None:
            raise Overloaded("The service is stopping.")
        if self._waiting_commands >= self._settings.queue_commands_max:
            raise Overloaded("The queue of writes is full.")
        copied_bytes = min(copied_bytes, self.budget.bytes_max // 2)
        self.budget.hold(copied_bytes, own_bytes=BODY_TIMES * size_bytes)
        future: asyncio.Future[Committed | Replayed] = self._loop.create_future()
        self._waiting_commands += 1
        self._queue.put(_Waiting(submission, size_bytes + copied_bytes, time.perf_counter(), future))
        try:
            return await future
        finally:
            if future.cancelled():  # the request is over and gives its bytes back; the command is still in memory
                self.budget.keep(size_bytes + copied_bytes)
            self.budget.release(copied_bytes)

    async def erased(self) -> None:
        """Wait until the content of all sessions erased so far is in no file any more.

        Raises:
            ErasurePending: something holds the files; the writer goes on trying.
        """
        if self._closing or self._loop is None:
            raise ErasurePending
        future: asyncio.Future[bool] = self._loop.create_future()
        self._queue.put(_Erased(future))
        if not await future:
            raise ErasurePending

    def repair(self) -> None:
        """Have the views built anew from the ledger, between two groups. Callable from any thread."""
        if not self._repairing:
            self._repairing = True
            self._damaged_generation = self._committer.views.generation
            self._queue.put(_Signal.REPAIR)

    def rebuild(self) -> None:
        """Have the views built anew beside the live ones, which go on until they are swapped between two groups.

        Raises:
            RebuildRunning: they are being built already.
            Overloaded: the service is stopping.
        """
        self.rebuilder.start(lambda: self._queue.put(_Signal.SWAP))

    def put(self, work: Callable[[Connection], None]) -> None:
        """Have *work* done in a transaction on the ledger, between two groups. Callable from any thread."""
        self._queue.put(_Job(work))

    async def close(self) -> None:
        """Commit all that was accepted, then end the thread and close the files."""
        self._closing = True
        await asyncio.to_thread(self.rebuilder.close)
        self._queue.put(_Signal.STOP)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._checkpointer.close)
        await asyncio.to_thread(self._committer.close)

    def _run(self) -> None:
        while True:
            if self._erasing and time.monotonic() >= self._erase_again_s:
                self._finish_erasures(erasure.RETRY_TIMEOUT_MS)
            group, signal = self._gather()
            if group:
                # Of the first: it has waited for longest.
                self.stats.queue_wait_s.observe(time.perf_counter() - group[0].since_s)
                outcomes, found = self._commit(group, gather=signal is None)
                signal = signal or found
                self._hand_back(group, outcomes)
                self._checkpoint()
                if any(isinstance(waiting.submission.command, EraseSession) for waiting in group):
                    self._finish_erasures(self._settings.busy_timeout_ms)
            if isinstance(signal, _Erased):
                self._say_erased(signal, done=not self._erasing)
            elif isinstance(signal, _Job):
                self._do(signal)
            elif signal is _Signal.REPAIR:
                self._rebuild()
            elif signal is _Signal.SWAP:
                self._swap()
            elif signal is _Signal.STOP:
                return

    def _checkpoint(self) -> None:
        if self._committer.is_open:
            self._checkpointer.after_group(self._committer.ledger)

    def _finish_erasures(self, wait_ms: int) -> None:
        """Do what is left of them; what cannot be done now is tried again, as long as it takes."""
        self._erasing, self._erase_again_s = True, time.monotonic() + ERASE_AGAIN_AFTER_FAILURE_S
        try:
            with self._committer.turn():
                try:
                    self._erase(wait_ms)
                except database.CommitFailed as error:
                    self._note_failure(error)
                    self._recover(error)
        except Exception as error:
            log.exception("erasure unfinished")
            self._repair_if_damaged(error)

    def _erase(self, wait_ms: int) -> None:
        rewriting = erasure.to_rewrite(self._committer.ledger)
        if rewriting:
            self.rebuilder.cancel()  # it may have read what has to go
            if self._committer.is_shared:
                self._committer.views.clean_up()  # one whose worker died may have left it
        try:
            self._erasing = not erasure.finish(self._committer, wait_ms=wait_ms)
            self._erase_again_s = time.monotonic() + ERASE_AGAIN_S
        finally:
            if rewriting:
                self.rebuilder.cancel()  # and so may one that was begun since

    def _say_erased(self, asked: _Erased, *, done: bool) -> None:
        def deliver() -> None:
            if not asked.future.done():
                asked.future.set_result(done)

        if self._loop is not None:
            self._loop.call_soon_threadsafe(deliver)

    def _gather(self) -> tuple[list[_Waiting], _Erased | _Job | _Signal | None]:
        """Wait for a command or another thing to do, then take all commands behind it, up to the next such thing."""
        group: list[_Waiting] = []
        try:
            found = self._queue.get(timeout=CATCH_UP_PAUSE_S if self._behind or self._erasing else None)
        except Empty:
            if self._behind:
                self._catch_up()
            return group, None
        if isinstance(found, (_Erased, _Job, _Signal)):
            return group, found
        group.append(found)
        return group, self._gather_behind(group)

    def _gather_behind(self, group: list[_Waiting]) -> _Erased | _Job | _Signal | None:
        """Add what waits to *group*, up to the next thing that is no command, which is returned."""
        while len(group) < self._settings.group_commands_max:
            try:
                found = self._queue.get_nowait()
            except Empty:
                return None
            if isinstance(found, (_Erased, _Job, _Signal)):
                return found
            group.append(found)
        return None

    def _catch_up(self) -> None:
        """Bring views that a failure left behind up to date, without waiting for the next write to do it."""
        try:
            with self._committer.turn():
                self._committer.catch_up()
            self._behind, self.stats.lag_events = False, 0
        except Exception:
            log.exception("views could not catch up")

    def _do(self, job: _Job) -> None:
        try:
            with self._committer.turn():
                try:
                    with database.immediate(self._committer.ledger):
                        job.work(self._committer.ledger)
                except database.CommitFailed as error:
                    self._note_failure(error)
                    self._recover(error)
        except Exception:
            log.exception("job failed")

    def _swap(self) -> None:
        try:
            with self._committer.turn():
                self.rebuilder.swap(self._committer.ledger)
        except DomainError:  # the ledger could not be opened again; then the rebuild has nobody to take it
            self.rebuilder.cancel()

    def _rebuild(self) -> None:
        try:
            with self._committer.turn():
                self.rebuilder.cancel()  # the next generation is now made here
                if self._committer.is_shared and self._committer.views.generation != self._damaged_generation:
                    log.info("views rebuilt elsewhere")  # another worker has met the damage too
                else:
                    self._committer.views.rebuild(self._committer.ledger)
                    log.warning("views rebuilt", reason="damaged")
        except Exception:
            # The views stay as they are, reads that meet the damage go on failing, /health/ready says so.
            log.exception("views could not be rebuilt")
        self._repairing = False

    def _hand_back(self, group: list[_Waiting], outcomes: Sequence[Outcome | Failure]) -> None:
        def deliver() -> None:
            for waiting, outcome in zip(group, outcomes, strict=True):
                self._waiting_commands -= 1
                if waiting.future.done():  # its request was cancelled; the write stands
                    self.budget.release(waiting.size_bytes)
                    continue
                if isinstance(outcome, BaseException):
                    waiting.future.set_exception(outcome)
                else:
                    waiting.future.set_result(outcome)

        if self._loop is not None:
            self._loop.call_soon_threadsafe(deliver)

    def _commit(
        self, group: list[_Waiting], *, gather: bool
    ) -> tuple[Sequence[Outcome | Failure], _Erased | _Job | _Signal | None]:
        """Commit a group; a failure of the storage is the outcome of each of its commands.

        Where others have their turns too, it takes along what came while it waited for its own, if *gather*.
        """
        found = None
        try:
            with self._committer.turn():
                if gather and self._committer.is_shared:
                    found = self._gather_behind(group)
                return self._commit_now([waiting.submission for waiting in group]), found
        except DomainError as error:  # what the others wrote cannot be read
            self._note_failure(error)
            return [error] * len(group), found

    def _commit_now(self, submissions: Sequence[Submission]) -> Sequence[Outcome | Failure]:
        before = self._committer.views.position
        started_s = time.perf_counter()
        self._behind = True
        try:
            outcomes: Sequence[Outcome | Failure] = self._committer.commit(submissions)
            self._behind, self.stats.lag_events = False, 0
        except DomainError as error:
            self._note_failure(error)
            self._repair_if_damaged(error.__cause__)
            outcomes = [error] * len(submissions)
        except database.CommitFailed as error:
            self._note_failure(error)
            outcomes = [self._recover(error)] * len(submissions)
        except Exception as error:
            # Damaged views, or a fault of ours. The transaction was rolled back, and the thread must live on.
            log.exception("writer failed")
            self.stats.failures += 1
            self._repair_if_damaged(error)
            outcomes = [error] * len(submissions)
        self.stats.groups += 1
        self.stats.commands += len(submissions)
        self.stats.events += self._committer.views.position - before
        self.stats.group_commands.observe(len(submissions))
        self.stats.commit_s.observe(time.perf_counter() - started_s)
        if self._behind:
            self._note_lag()
        return outcomes

    def _note_lag(self) -> None:
        try:
            head = ledger.head(self._committer.ledger).position
        except (ChatledgerError, database.SQLError):
            return  # it is closed, or cannot be read; the last number stands
        self.stats.lag_events = head - self._committer.views.position

    def _repair_if_damaged(self, error: BaseException | None) -> None:
        if database.is_damage(error):
            self.repair()

    def _note_failure(self, error: Exception) -> None:
        self.stats.failures += 1
        log.error("commit failed", error=type(error).__name__, cause=repr(error.__cause__))

    def _recover(self, failed: database.CommitFailed) -> DomainError:
        """Open the ledger again after a failed COMMIT and look whether it is there."""
        before = self._committer.views.position
        # Opening the views again removes what is not whole; and a disk that is full has no room for a rebuild.
        self.rebuilder.cancel()
        try:
            self._committer.reopen()
            head = ledger.head(self._committer.ledger).position
            self._catch_up()
        except (ChatledgerError, database.SQLError):  # the views' own failures too: the thread must live on
            log.exception("the ledger could not be opened again")
            return OutcomeUnknown()
        if head == before and database.is_full(failed.__cause__):
            return StorageFull()
        return OutcomeUnknown()
