"""Bugs put into the product on purpose: each harness of `tests/crash` has to find those of its kind."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from chatledger.application import conversations
from chatledger.domain import ids
from chatledger.domain.api_keys import KeyRing
from chatledger.domain.commands import AppendMessages
from chatledger.errors import IdempotencyMismatch, StorageFull
from chatledger.ledger import event_store, idempotency_store
from chatledger.maintenance import backup
from chatledger.observability import logs
from chatledger.observability.log_sink import LogSink
from chatledger.observability.metrics import HttpMetrics
from chatledger.reading import readers
from chatledger.reading.api_key_cache import SharedKeys
from chatledger.reading.readers import LiveViews
from chatledger.serving import worker
from chatledger.storage import sql_errors, transactions, wal
from chatledger.threads import RestartingThread
from chatledger.transfer import importer
from chatledger.views.rebuilder import Rebuilder
from chatledger.workers.shared_state import Board
from chatledger.writing import writer
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.command_group import Group, Submission
from chatledger.writing.committer import Committer
from chatledger.writing.writer import Writer

STALE_READS = 40


def answer_before_commit() -> None:
    """The outcomes are handed back while the transaction is open; it is committed by the next group."""
    write = Committer._write

    @contextmanager
    def nothing(*_: object) -> Iterator[None]:
        yield

    def write_without_end(self: Committer, *arguments: Any) -> None:
        if self.ledger.in_transaction:
            self.ledger.execute("COMMIT")
        self.ledger.execute("BEGIN IMMEDIATE")
        kept = transactions.immediate, transactions.autocommit
        transactions.immediate = transactions.autocommit = nothing
        try:
            write(self, *arguments)
        finally:
            transactions.immediate, transactions.autocommit = kept

    Committer._write = write_without_end  # type: ignore[method-assign]


def idempotency_in_memory() -> None:
    """The answers to keys are in a dictionary, and gone with the process."""
    known: dict[tuple[str, str], tuple[bytes, Any]] = {}

    def find(_: object, tenant_id: str, key: idempotency_store.IdempotencyKey) -> Any:
        found = known.get((tenant_id, key.key))
        if found is not None and found[0] != key.fingerprint:
            raise IdempotencyMismatch
        return None if found is None else found[1]

    def remember(_: object, answers: Sequence[Any], *__: object, **___: object) -> None:
        known.update({(tenant_id, key.key): (key.fingerprint, answer) for tenant_id, key, answer in answers})

    idempotency_store.find, idempotency_store.remember = find, remember


def no_key_check() -> None:
    """A request that comes again under its key is done again."""
    Group._answered = lambda *_: None  # type: ignore[method-assign]
    idempotency_store.remember = lambda *_, **__: None


def mixed_answers() -> None:
    """A group's outcomes go to its commands in another order."""
    hand_back = Writer._hand_back

    def hand_back_reversed(self: Writer, group: list[Any], outcomes: Sequence[Any]) -> None:
        hand_back(self, group, outcomes[::-1])

    Writer._hand_back = hand_back_reversed  # type: ignore[method-assign]


def stale_reads() -> None:
    """A reader keeps its snapshot of the views for many reads: faster, and of the past."""
    current, snapshot = LiveViews.current, transactions.snapshot
    counts: dict[LiveViews, int] = {}

    @contextmanager
    def keep(connection: Any) -> Iterator[None]:
        if connection.in_transaction:
            yield
            return
        with snapshot(connection):
            yield

    class Kept:
        """The module `transactions`, with another idea of a snapshot."""

        snapshot = staticmethod(keep)

        def __getattr__(self, name: str) -> Any:
            return getattr(transactions, name)

    def current_stale(self: LiveViews) -> Any:
        connection = current(self)
        counts[self] = counts.get(self, 0) + 1
        if counts[self] % STALE_READS == 0 and connection.in_transaction:
            connection.execute("ROLLBACK")
        if not connection.in_transaction:
            connection.execute("BEGIN")
        return connection

    readers.transactions = Kept()  # type: ignore[assignment]
    LiveViews.current = current_stale  # type: ignore[method-assign]


def pages_skip() -> None:
    """A page after the first one begins one message too late."""
    messages_page = conversations.Tenant.messages_page

    async def skip(self: conversations.Tenant, session_id: str, *, after: int | None, **others: Any) -> Any:
        return await messages_page(self, session_id, after=after + 1 if after else after, **others)

    conversations.Tenant.messages_page = skip  # type: ignore[method-assign]


def unbounded_queue() -> None:
    """The writer takes whatever comes."""
    begin = Writer.__init__

    def begin_without_limit(self: Writer, committer: Any, settings: Any, *others: Any, **named: Any) -> None:
        free = msgspec.structs.replace(settings, queue_commands_max=2**40, queue_bytes_max=2**60)
        begin(self, committer, free, *others, **named)

    Writer.__init__ = begin_without_limit  # type: ignore[method-assign]


def import_blind() -> None:
    """An import adds the messages of a session that is there already once more."""
    commit = importer._commit

    def commit_blind(committer: Committer, group: list[Any], *others: Any) -> None:
        for found in group:
            if event_store.find_stream(committer.ledger, found.tenant_id, found.session_id) is not None:
                again = [msgspec.structs.replace(message, id=ids.new_id()) for message in found.command.messages]
                append = AppendMessages(again, [message.id for message in again])
                committer.commit(
                    [Submission(tenant_id=found.tenant_id, session_id=found.session_id, actor="import", command=append)]
                )
        commit(committer, group, *others)

    importer._commit = commit_blind


def backup_named_at_once() -> None:
    """A backup is written under its own name, whole or not."""

    @contextmanager
    def named(name: str) -> Iterator[str]:
        yield name

    backup.unfinished = named


def full_for_good() -> None:
    """Once the disk was full, every write is refused until a restart."""
    commit = Committer.commit
    full: list[StorageFull] = []

    def commit_never_again(self: Committer, submissions: Sequence[Submission]) -> Any:
        if full:
            raise full[0]
        try:
            return commit(self, submissions)
        except (StorageFull, sql_errors.CommitFailed):
            full.append(StorageFull())
            raise

    Committer.commit = commit_never_again  # type: ignore[method-assign]


def log_ends_threads() -> None:
    """Whoever logs writes the line, and is told where that fails; a thread that meets it ends."""

    def write(sink: LogSink, line: bytes) -> None:
        os.write(sink._descriptor, line)

    def proxy(base: Any) -> Any:
        return base

    def run_once(thread: RestartingThread) -> None:
        thread._work()

    LogSink.write = write  # type: ignore[method-assign]
    logs._never_raising = proxy
    RestartingThread._run = run_once  # type: ignore[method-assign]


def threads_end() -> None:
    """A thread that meets what it does not expect ends, and nobody begins again."""

    def run_once(thread: RestartingThread) -> None:
        thread._work()

    RestartingThread._run = run_once  # type: ignore[method-assign]


def writer_fails_behind_each_group() -> None:
    """No bug of the harnesses: the writer's thread fails behind each group that it has answered."""

    def fail(_: Writer) -> None:
        raise SystemExit

    Writer._checkpoint = fail  # type: ignore[method-assign]


def every_other_scrape_fails() -> None:
    """The same: what collects the metrics raises, every other time."""
    collect = HttpMetrics.collect
    times = itertools.count()

    def collect_badly(self: HttpMetrics) -> Any:
        if next(times) % 2 == 0:
            raise ZeroDivisionError
        return collect(self)

    HttpMetrics.collect = collect_badly  # type: ignore[method-assign]


def requests_not_counted() -> None:
    """The same: no request can be counted."""

    def observe(_: HttpMetrics, *__: Any) -> None:
        raise ZeroDivisionError

    HttpMetrics.observe = observe  # type: ignore[method-assign]


def answers_in_a_row() -> None:
    """A group is answered one after the other: where one answer fails, those behind it have none."""

    def settle(future: Any, outcome: Any, **_: object) -> None:
        if not future.done():
            (future.set_exception if isinstance(outcome, BaseException) else future.set_result)(outcome)

    writer.settle = settle


def rebuilds_stay() -> None:
    """The end of a rebuild has steps, and none is done behind one that fails."""

    def finish(self: Rebuilder, job: Any) -> None:
        self._remove(job)
        job.settled.set()
        self._forget(job)

    Rebuilder._finish = finish  # type: ignore[method-assign]


def logs_never_cut() -> None:
    """Nobody copies the write-ahead logs back."""

    def count_only(_: Checkpointer, db: Any) -> None:
        wal.disable_autocheckpoint(db)

    Checkpointer.after_group = count_only  # type: ignore[method-assign]


def keys_by_the_clock() -> None:
    """Keys are forgotten by the wall clock, wherever that has jumped to."""
    remember = Committer._remember

    def remember_by_clock(self: Committer, group: Any, records: Any) -> None:
        from chatledger.domain.timestamps import now_us  # noqa: PLC0415  # the moved one

        remember(self, group, records)
        if group.answers:
            idempotency_store.prune(self.ledger, before_us=now_us() - 30 * 86_400 * 10**6, limit=2 * len(group.answers))

    Committer._remember = remember_by_clock  # type: ignore[method-assign]


def order_by_clock() -> None:
    """Messages are shown in the order of their times."""
    from chatledger_projections import messages  # noqa: PLC0415

    for name in ("_PAGE_UP", "_UP_AT_ONCE"):
        setattr(messages, name, getattr(messages, name).replace("ORDER BY seq", "ORDER BY created_at"))


def dies_before_saying() -> None:
    """No bug: a worker that dies behind a commit, before it tells the others, once the file `DIE` is there."""
    say = Committer._say

    def die(self: Committer, board: Board) -> None:
        with suppress(FileNotFoundError):
            Path(os.environ["DIE"]).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        say(self, board)

    Committer._say = die  # type: ignore[method-assign]


def death_unnoticed() -> None:
    """The same, and the others do not look whether a turn has ended."""
    dies_before_saying()
    Board.is_unfinished = False  # type: ignore[method-assign,assignment]


def others_unnoticed() -> None:
    """A worker does not look whether others have written since its last turn."""
    Committer._begin = lambda *_: None  # type: ignore[method-assign]


def swaps_unnoticed() -> None:
    """The readers of a worker stay with the views that they have found first."""
    begin = LiveViews.__init__

    class Found:
        def __init__(self, generation: int) -> None:
            self.generation = generation

    def begin_found(self: LiveViews, location: Any, settings: Any, views: Any, prepare: Any) -> None:
        begin(self, location, settings, Found(views.generation), prepare)

    LiveViews.__init__ = begin_found  # type: ignore[method-assign]


def keys_unnoticed() -> None:
    """A worker reads the API keys once."""
    current = SharedKeys.current
    read: list[KeyRing] = []

    def current_once(self: SharedKeys) -> KeyRing:
        if not read:
            read.append(current(self))
        return read[0]

    SharedKeys.current = current_once  # type: ignore[method-assign]


def no_worker_lives() -> None:
    """No bug: workers that end as soon as they are started."""
    worker.main = lambda: os._exit(7)


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        answer_before_commit,
        idempotency_in_memory,
        no_key_check,
        mixed_answers,
        stale_reads,
        pages_skip,
        unbounded_queue,
        import_blind,
        backup_named_at_once,
        full_for_good,
        log_ends_threads,
        threads_end,
        writer_fails_behind_each_group,
        every_other_scrape_fails,
        requests_not_counted,
        answers_in_a_row,
        rebuilds_stay,
        logs_never_cut,
        keys_by_the_clock,
        order_by_clock,
        dies_before_saying,
        death_unnoticed,
        others_unnoticed,
        swaps_unnoticed,
        keys_unnoticed,
        no_worker_lives,
    )
}
"""By the name that `SEEDED_BUG` has."""
