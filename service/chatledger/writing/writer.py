"""The writer thread: what waits goes into one transaction (group commit).

Requests come from the event loop; their outcomes go back to it with one wake-up for each group, not one for each
request. Under load the groups grow by themselves: while one is synced, the next one gathers.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import structlog

from chatledger.domain.api_keys import KeyRing
from chatledger.domain.commands import EraseSession
from chatledger.errors import ChatledgerError, DomainError, ErasurePending, OutcomeUnknown, Overloaded, StorageFull
from chatledger.ledger import event_store
from chatledger.observability.metrics import SECONDS, SIZES, Histogram
from chatledger.settings import Settings
from chatledger.storage import sql_errors, transactions
from chatledger.storage.connection import Connection
from chatledger.threads import RestartingThread, call_in_loop, forget_locals, in_thread, settle
from chatledger.views.rebuilder import Rebuilder
from chatledger.writing.byte_budget import BODY_TIMES, ByteBudget
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.command_group import Committed, Outcome, Replayed, Submission
from chatledger.writing.committer import Committer
from chatledger.writing.erasure_maintenance import ErasureMaintenance
from chatledger.writing.write_queue import AwaitErasures, Job, Signal, Task, Waiting, WriteQueue, events_of

log = structlog.get_logger("chatledger.writer")

CATCH_UP_PAUSE_S = 1.0
"""How long the writer waits before it tries again to bring views up to date that could not follow."""

Failure: TypeAlias = BaseException


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
        self._queue = WriteQueue(group_commands_max=settings.group_commands_max)
        self._erasures = ErasureMaintenance(
            committer, settings, checkpointer, rebuilder, rebuild=self.rebuild, answer=self._say_erased
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = RestartingThread("writer", self._run, recover=self._begin_again, give_up=self._end)
        self._told_to_stop = False
        self._gone = False
        self.on_gone: Callable[[], None] | None = None
        """Called in the thread when it has ended by itself, for good: the service has to end."""
        self._closing = False
        self._repairing = False
        self._damaged_generation = 0
        self._keys = keys
        self._behind = False
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
        committer = self._committer
        return (
            self._thread.is_alive()
            and not (self.gone or self._closing)
            and committer.is_open
            and committer.has_its_files
        )

    @property
    def gone(self) -> bool:
        """Whether the thread has ended by itself, for good."""
        return self._gone

    @property
    def keys(self) -> KeyRing:
        """The API keys that there are now. Another value takes its place with each change."""
        return self._committer.keys if self._keys is None else self._keys()

    @property
    def queue_length(self) -> int:
        """The commands whose outcome is not known yet."""
        return self._waiting_commands

    @property
    def unscrubbed(self) -> int:
        """The erasures of which the views' file may have copies."""
        return self._erasures.unscrubbed

    @property
    def scrubs_overdue(self) -> int:
        """The erasures of which the views' file should have no copies any more, and may have."""
        return self._erasures.overdue

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
        try:
            future: asyncio.Future[Committed | Replayed] = self._loop.create_future()
            events = events_of(submission.command)
            self._queue.put(Waiting(submission, size_bytes + copied_bytes, time.perf_counter(), future, events))
            self._waiting_commands += 1
            if self._gone:  # it may have looked into the queue before
                self._refuse_the_rest()
            return await future
        except asyncio.CancelledError:
            if future.cancelled():  # the request is over and gives its bytes back; the command is still in memory
                self.budget.keep(size_bytes + copied_bytes)
            raise
        finally:
            self.budget.release(copied_bytes)

    async def erased(self) -> None:
        """Wait until all erasures that are recorded are finished: nothing is left in the ledger, its logs, or any read.

        Raises:
            ErasurePending: something holds the files; the writer goes on trying.
        """
        if self._closing or self._loop is None:
            raise ErasurePending
        future: asyncio.Future[bool] = self._loop.create_future()
        self._queue.put(AwaitErasures(future))
        if self._gone:
            self._refuse_the_rest()
        if not await future:
            raise ErasurePending

    def repair(self) -> None:
        """Have the views built anew from the ledger, between two groups. Callable from any thread."""
        if not self._repairing:
            self._repairing = True
            self._damaged_generation = self._committer.views.generation
            self._queue.put(Signal.REPAIR)

    def rebuild(self) -> None:
        """Have the views built anew beside the live ones, which go on until they are swapped between two groups.

        Raises:
            RebuildRunning: they are being built already.
            Overloaded: the service is stopping.
        """
        self.rebuilder.start(lambda: self._queue.put(Signal.SWAP))

    def put(self, work: Callable[[Connection], None]) -> None:
        """Have *work* done in a transaction on the ledger, between two groups. Callable from any thread."""
        self._queue.put(Job(work))

    async def close(self) -> None:
        """Commit all that was accepted, then end the thread and close the files."""
        self._closing = True
        await in_thread(self.rebuilder.close)
        self._queue.put(Signal.STOP)
        await in_thread(self._thread.join)
        await in_thread(self._checkpointer.close)
        await in_thread(self._committer.close)

    def _run(self) -> None:
        while True:
            self._queue.gather(self._idle_s())
            while (task := self._queue.next_task()) is not None:
                self._do(task)
            group = self._queue.next_group()
            if group:
                # Of the first: it has waited for longest.
                self.stats.queue_wait_s.observe(time.perf_counter() - group[0].since_s)
                outcomes = self._commit(group)
                self._hand_back(group, outcomes)
                self._checkpoint()
            elif self._told_to_stop and self._queue.is_empty:
                return
            elif self._behind:
                self._catch_up()
            self._maintain()

    def _idle_s(self) -> float | None:
        """How long the thread may wait for something to come; None: as long as it takes."""
        if self._told_to_stop:
            return 0.0
        wait_s = max(0.0, self._erasures.due_s - time.monotonic())
        if self._behind:
            wait_s = min(wait_s, CATCH_UP_PAUSE_S)
        return None if wait_s == math.inf else wait_s

    def _do(self, task: Task) -> None:
        if isinstance(task, AwaitErasures):
            self._erasures.wait(task.future)
        elif isinstance(task, Job):
            self._do_job(task)
        elif task is Signal.REPAIR:
            self._rebuild()
        elif task is Signal.SWAP:
            self._swap()
        elif task is Signal.STOP:
            self._told_to_stop = True
        self._queue.task = None

    def _maintain(self) -> None:
        """What erasures have left to do, if it is due; what cannot be done now is tried again, as long as it takes."""
        if time.monotonic() < self._erasures.due_s:
            return
        try:
            with self._committer.turn():
                try:
                    self._erasures.run()
                except sql_errors.CommitFailed as error:
                    self._note_failure(error)
                    self._recover(error)
                    self._erasures.postpone()
        except Exception as error:
            self._erasures.postpone()
            log.exception("erasure unfinished")
            self._repair_if_damaged(error)

    def _begin_again(self) -> None:
        """Behind a failure that nothing here expects: answer what was under way, and go on with a fresh connection.

        What waits in the queue stays there, and is committed by whoever begins now.
        """
        self._answer_what_was_under_way()
        self.stats.failures += 1
        self._behind, self._repairing = True, False
        self._erasures.start_over()
        with self.rebuilder.held():  # opening the views again removes what is not whole, and one that is built may wait
            try:
                self._committer.start_over()
            except (ChatledgerError, sql_errors.SQLError, OSError):
                log.exception("the ledger could not be opened again")  # each further group tries again

    def _end(self) -> None:
        """Answer all that waits and all that still comes, for this thread does nothing any more."""
        self._queue.put_back()  # before anybody else may take
        self._gone = True
        self._answer_what_was_under_way()
        self._refuse_the_rest()
        if self.on_gone is not None:
            self.on_gone()
        self.rebuilder.cancel()

    def _answer_what_was_under_way(self) -> None:
        task, self._queue.task = self._queue.task, None
        if isinstance(task, AwaitErasures):
            self._erasures.wait(task.future)
        self._told_to_stop = self._told_to_stop or task is Signal.STOP
        if self._queue.group:
            self._hand_back(self._queue.group, [OutcomeUnknown()] * len(self._queue.group))

    def _refuse_the_rest(self) -> None:
        """Answer what is in the queue of a writer that is gone. Callable from any thread."""
        rest: list[Waiting] = []
        for found in self._queue.take_all():
            if isinstance(found, Waiting):
                rest.append(found)
            elif isinstance(found, AwaitErasures):
                self._say_erased(found.future, done=False)
        self._erasures.give_up()
        if rest:
            self._hand_back(rest, [Overloaded("The service is stopping.", retry_after_s=5)] * len(rest))

    def _checkpoint(self) -> None:
        if self._committer.is_open:
            self._checkpointer.after_group(self._committer.ledger)

    def _say_erased(self, future: "asyncio.Future[bool]", done: bool) -> None:  # noqa: FBT001
        call_in_loop(self._loop, lambda: settle(future, done, otherwise=ErasurePending()))

    def _catch_up(self) -> None:
        """Bring views that a failure left behind up to date, without waiting for the next write to do it."""
        try:
            with self._committer.turn():
                self._committer.catch_up()
            self._behind, self.stats.lag_events = False, 0
        except Exception:
            log.exception("views could not catch up")

    def _do_job(self, job: Job) -> None:
        try:
            with self._committer.turn():
                try:
                    with transactions.immediate(self._committer.ledger):
                        job.work(self._committer.ledger)
                except sql_errors.CommitFailed as error:
                    self._note_failure(error)
                    self._recover(error)
        except Exception:
            log.exception("job failed")

    def _swap(self) -> None:
        try:
            with self._committer.turn():
                self.rebuilder.swap(self._committer.ledger)
                self._erasures.views_replaced()
        except DomainError:  # the ledger could not be opened again; then the rebuild has nobody to take it
            self.rebuilder.cancel()
        self._behind = self._behind or not self._committer.views.is_open  # the swap failed, and so did the way back

    def _rebuild(self) -> None:
        try:
            with self._committer.turn():
                self.rebuilder.cancel()  # the next generation is now made here
                if self._committer.is_shared and self._committer.views.generation != self._damaged_generation:
                    log.info("views rebuilt elsewhere")  # another worker has met the damage too
                else:
                    self._committer.views.rebuild(self._committer.ledger)
                    self._erasures.views_replaced()
                    log.warning("views rebuilt", reason="damaged")
        except Exception:
            # The views stay as they are, reads that meet the damage go on failing, /health/ready says so.
            log.exception("views could not be rebuilt")
        self._repairing = False

    def _hand_back(self, group: list[Waiting], outcomes: Sequence[Outcome | Failure]) -> None:
        pairs = list(zip(group, outcomes, strict=True))

        def deliver() -> None:
            for waiting, outcome in pairs:
                self._waiting_commands -= 1
                if not settle(waiting.future, outcome, otherwise=OutcomeUnknown()):
                    self.budget.release(waiting.size_bytes)  # its request was cancelled; the write stands

        call_in_loop(self._loop, deliver)
        self._queue.group = []

    def _commit(self, group: list[Waiting]) -> Sequence[Outcome | Failure]:
        """Commit a group; a failure of the storage is the outcome of each of its commands.

        Where others have their turns too, it takes along what came while it waited for its own.
        """
        try:
            with self._committer.turn():
                if self._committer.is_shared:
                    self._queue.top_up()
                outcomes = self._commit_now([waiting.submission for waiting in group])
        except DomainError as error:  # what the others wrote cannot be read
            self._note_failure(error)
            return [error] * len(group)
        if any(isinstance(waiting.submission.command, EraseSession) for waiting in group):
            self._erasures.expect()
        return outcomes

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
        except sql_errors.CommitFailed as error:
            self._note_failure(error)
            outcomes = [self._recover(error)] * len(submissions)
        except Exception as error:
            # Damaged views, or a fault of ours; as a rule the transaction was rolled back.
            self.stats.failures += 1
            log.exception("writer failed")
            forget_locals(error)
            self._repair_if_damaged(error)
            outcomes = [error if self._is_untouched(before) else self._recover(error)] * len(submissions)
        self.stats.groups += 1
        self.stats.commands += len(submissions)
        self.stats.events += self._committer.views.position - before
        self.stats.group_commands.observe(len(submissions))
        self.stats.commit_s.observe(time.perf_counter() - started_s)
        if self._behind:
            self._note_lag()
        return outcomes

    def _is_untouched(self, before: int) -> bool:
        """Whether the ledger ends where it did, and no transaction is open."""
        db = self._committer.ledger
        return not db.in_transaction and event_store.head(db).position == before

    def _note_lag(self) -> None:
        try:
            head = event_store.head(self._committer.ledger).position
        except (ChatledgerError, sql_errors.SQLError):
            return  # it is closed, or cannot be read; the last number stands
        self.stats.lag_events = head - self._committer.views.position

    def _repair_if_damaged(self, error: BaseException | None) -> None:
        if sql_errors.is_damage(error):
            self.repair()

    def _note_failure(self, error: Exception) -> None:
        self.stats.failures += 1
        log.error("commit failed", error=type(error).__name__, cause=repr(error.__cause__))

    def _recover(self, failed: Exception) -> DomainError:
        """Open the ledger again after a failed COMMIT, or a fault behind one, and look whether it is there."""
        before = self._committer.views.position
        # Opening the views again removes what is not whole; and a disk that is full has no room for a rebuild.
        with self.rebuilder.held():
            try:
                self._committer.reopen()
                head = event_store.head(self._committer.ledger).position
                self._catch_up()
            except (ChatledgerError, sql_errors.SQLError):  # the views' own failures too: the thread must live on
                log.exception("the ledger could not be opened again")
                return OutcomeUnknown()
        if head == before and sql_errors.is_full(failed.__cause__):
            return StorageFull()
        return OutcomeUnknown()
