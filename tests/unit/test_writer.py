"""The writer: its bounded queue, its groups, and what it does when a commit fails."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import pytest

from chatledger import threads
from chatledger.domain.commands import AppendMessages, CreateSession
from chatledger.errors import (
    DomainError,
    ErasurePending,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    RefusedToStart,
    SessionExists,
    StorageFull,
)
from chatledger.ledger.idempotency_store import IdempotencyKey
from chatledger.observability.metrics import Histogram
from chatledger.storage import ledger_file, sql_errors, transactions
from chatledger.storage.connection import Connection
from chatledger.views.builder import ProjectionFailed
from chatledger.views.live_views import Views
from chatledger.views.rebuilder import Rebuilder
from chatledger.writing import writer as writer_module
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.command_group import Accepted, Committed, Group, Outcome, Replayed, Submission
from chatledger.writing.committer import Committer
from chatledger.writing.write_queue import Signal, Task
from chatledger.writing.writer import Writer
from support.store import Store, append, create, delete, message, run, submit

Commit: TypeAlias = Callable[[Committer, Sequence[Submission]], list[Outcome]]
LIMIT_S = 60


class Gate:
    """Holds the writer's thread before its first commit until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()
        original = Committer.commit

        def commit(committer: Committer, submissions: Sequence[Submission]) -> list[Outcome]:
            self._entered.set()
            assert self._opened.wait(LIMIT_S)
            return original(committer, submissions)

        monkeypatch.setattr(Committer, "commit", commit)

    async def entered(self) -> None:
        """Wait until the writer has taken its first group."""
        assert await asyncio.to_thread(self._entered.wait, LIMIT_S)

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A closed gate; it is opened at the latest at the end of the test."""
    made = Gate(monkeypatch)
    yield made
    made.open()


@asynccontextmanager
async def running(store: Store, gate: Gate | None = None) -> AsyncIterator[Writer]:
    """A writer on *store*, closed in the end."""
    checkpointer = Checkpointer(store.location, store.settings, store.views)
    rebuilder = Rebuilder(store.location, store.settings, store.views)
    writer = Writer(store.committer, store.settings, checkpointer, rebuilder)
    writer.start()
    try:
        yield writer
    finally:
        if gate is not None:
            gate.open()
        await writer.close()


def send(
    writer: Writer, submission: Submission, *, size_bytes: int = 1, copied_bytes: int = 0
) -> "asyncio.Task[Committed | Replayed]":
    """Submit in a task of its own."""
    return asyncio.create_task(writer.submit(submission, size_bytes=size_bytes, copied_bytes=copied_bytes))


async def let_run(*tasks: "asyncio.Task[Committed | Replayed]") -> None:
    """Give each of *tasks* its turn: they are in the queue then."""
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


def fail_once(monkeypatch: pytest.MonkeyPatch, cause: Exception, *, committed: bool = False) -> None:
    """Let the next group's COMMIT fail; with *committed* the disk has it all the same."""
    original = Committer.commit
    calls: list[int] = []

    def commit(committer: Committer, submissions: Sequence[Submission]) -> list[Outcome]:
        calls.append(1)
        if len(calls) > 1:
            return original(committer, submissions)
        if committed:
            _commit_unseen(committer, submissions, original)
        raise sql_errors.CommitFailed from cause

    monkeypatch.setattr(Committer, "commit", commit)


def _commit_unseen(committer: Committer, submissions: Sequence[Submission], original: Commit) -> None:
    """Commit to the ledger; the fault strikes before the views."""

    @contextmanager
    def immediate(connection: Connection) -> Iterator[None]:
        with unpatched(connection):
            yield
        raise sql_errors.CommitFailed

    unpatched = transactions.immediate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transactions, "immediate", immediate)
        with pytest.raises(sql_errors.CommitFailed):
            original(committer, submissions)


def keyed(key: str = "k") -> Submission:
    """A creation under an Idempotency-Key."""
    return submit("s", CreateSession(messages=[message("m1")]), key=IdempotencyKey(key, b"f" * 32))


def visible(store: Store, session_id: str) -> bool:
    """Whether readers see the session."""
    try:
        run(store.tenant().session(session_id, newest=0))
    except NotFound:
        return False
    return True


def test_a_committed_command_is_readable(store: Store) -> None:
    """Rule 1: who got the answer can read it back at once."""

    async def main() -> None:
        async with running(store) as writer:
            outcome = await writer.submit(create("s", message("m1")), size_bytes=1)
            assert isinstance(outcome, Committed)
            assert outcome.version == 2
            assert visible(store, "s")

    asyncio.run(main())


def test_a_full_queue_refuses_and_has_room_again_afterwards(tmp_path: Path, gate: Gate) -> None:
    """Beyond `queue_commands_max` a command is refused at once; nothing of it is done (rule 11)."""

    async def main() -> None:
        with Store(tmp_path / "ledger.db", queue_commands_max=2) as store:
            async with running(store, gate) as writer:
                tasks = [send(writer, create("a")), send(writer, create("b"))]
                await let_run(*tasks)
                assert writer.queue_length == 2
                with pytest.raises(Overloaded):
                    await writer.submit(create("c"), size_bytes=1)
                gate.open()
                await asyncio.gather(*tasks)
                assert writer.queue_length == 0
                await writer.submit(create("d"), size_bytes=1)
                assert [visible(store, name) for name in "abcd"] == [True, True, False, True]

    asyncio.run(main())


def test_what_was_read_for_a_command_takes_room_too(tmp_path: Path, gate: Gate) -> None:
    """Copies beyond what there is room for are refused; half of the room is always enough for one command's."""

    async def main() -> None:
        with Store(tmp_path / "ledger.db", queue_bytes_max=100) as store:
            async with running(store, gate) as writer:
                tasks = [send(writer, create("a"), copied_bytes=1000)]
                await let_run(*tasks)
                assert writer.budget.bytes_held == 50
                with pytest.raises(Overloaded):
                    writer.budget.hold(51)
                tasks.append(send(writer, create("b"), copied_bytes=49))
                await let_run(*tasks)
                with pytest.raises(Overloaded):
                    await writer.submit(create("c"), size_bytes=0, copied_bytes=2)
                gate.open()
                await asyncio.gather(*tasks)
                assert writer.budget.bytes_held == 0
                assert [visible(store, name) for name in "abc"] == [True, True, False]

    asyncio.run(main())


def test_a_cancelled_wait_does_not_cancel_the_write(store: Store, gate: Gate) -> None:
    """What was accepted is committed; until then it takes its place in the queue and its room, though nobody waits."""

    async def main() -> None:
        async with running(store, gate) as writer:
            task = send(writer, create("s"), size_bytes=7, copied_bytes=3)
            await let_run(task)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (writer.queue_length, writer.budget.bytes_held) == (1, 10)
            gate.open()
            await writer.submit(create("behind"), size_bytes=1)
            assert visible(store, "s")
            assert (writer.queue_length, writer.budget.bytes_held) == (0, 0)

    asyncio.run(main())


def test_a_wait_that_is_cancelled_behind_its_answer_takes_no_room(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has come, and the request ends before it gets it: as where a client goes in that moment."""
    settle = writer_module.settle

    async def main() -> None:
        async with running(store, gate) as writer:
            task = send(writer, create("s"), size_bytes=7, copied_bytes=3)
            await let_run(task)

            def settle_and_cancel(*arguments: Any, **named: Any) -> bool:
                settled = settle(*arguments, **named)
                task.cancel()
                return settled

            monkeypatch.setattr(writer_module, "settle", settle_and_cancel)
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert visible(store, "s")
            assert (writer.queue_length, writer.budget.bytes_held) == (0, 0)

    asyncio.run(main())


def test_what_waits_goes_into_one_transaction(store: Store, gate: Gate) -> None:
    """Group commit; a refused command takes no other with it."""

    async def main() -> None:
        async with running(store, gate) as writer:
            first = send(writer, create("s"))
            await gate.entered()
            behind = [
                send(writer, submission)
                for submission in (
                    append("s", message("m1")),
                    create("s"),
                    append("unknown", message("m1")),
                    append("s", message("m2")),
                    delete("s"),
                    append("s", message("m3")),
                )
            ]
            await let_run(first, *behind)
            gate.open()
            found = await asyncio.gather(first, *behind, return_exceptions=True)
            kinds = [Committed, Committed, SessionExists, NotFound, Committed, Committed, NotFound]
            assert [type(each) for each in found] == kinds
            assert (writer.stats.groups, writer.stats.commands, writer.stats.events) == (2, 7, 4)

    asyncio.run(main())


def test_a_group_has_a_limit(tmp_path: Path, gate: Gate) -> None:
    """`group_commands_max` commands to a transaction."""

    async def main() -> None:
        with Store(tmp_path / "ledger.db", group_commands_max=2) as store:
            async with running(store, gate) as writer:
                tasks = [send(writer, create("s0"))]
                await gate.entered()
                tasks += [send(writer, create(f"s{number}")) for number in range(1, 6)]
                await let_run(*tasks)
                gate.open()
                await asyncio.gather(*tasks)
                assert writer.stats.groups == 4

    asyncio.run(main())


def test_closing_commits_all_that_was_accepted_and_takes_no_more(store: Store, gate: Gate) -> None:
    """Nobody who was let in goes without an answer."""

    async def main() -> None:
        async with running(store, gate) as writer:
            tasks = [send(writer, create(f"s{number}")) for number in range(5)]
            await let_run(*tasks)
            closing = asyncio.create_task(writer.close())
            await asyncio.sleep(0)
            assert not writer.alive
            with pytest.raises(Overloaded):
                await writer.submit(create("late"), size_bytes=1)
            gate.open()
            assert [(await task).__class__ for task in tasks] == [Committed] * 5
            await closing

    asyncio.run(main())
    store.close()
    with store:
        assert [visible(store, f"s{number}") for number in range(5)] == [True] * 5
        assert not visible(store, "late")


def test_after_a_failed_commit_the_outcome_is_unknown_and_the_writer_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was written: a retry with the same key does it, once."""
    fail_once(monkeypatch, apsw.IOError("sync"))

    async def main() -> None:
        async with running(store) as writer:
            with pytest.raises(OutcomeUnknown):
                await writer.submit(keyed(), size_bytes=1)
            assert writer.alive
            assert not visible(store, "s")
            assert isinstance(await writer.submit(keyed(), size_bytes=1), Committed)
            assert visible(store, "s")
            assert writer.stats.failures == 1

    asyncio.run(main())


def test_what_a_failed_commit_has_written_all_the_same_is_replayed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has it: a retry with the same key gives the first answer and writes nothing again."""
    fail_once(monkeypatch, apsw.IOError("sync"), committed=True)

    async def main() -> None:
        async with running(store) as writer:
            with pytest.raises(OutcomeUnknown):
                await writer.submit(keyed(), size_bytes=1)
            assert isinstance(await writer.submit(keyed(), size_bytes=1), Replayed)
            assert visible(store, "s")
            assert store.views.position == 2

    asyncio.run(main())


def test_after_a_failed_commit_the_views_have_what_the_ledger_has(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers need not wait for the next write: whenever the views are behind they catch up (the design)."""
    fail_once(monkeypatch, apsw.IOError("sync"), committed=True)

    async def main() -> None:
        async with running(store) as writer:
            with pytest.raises(OutcomeUnknown):
                await writer.submit(keyed(), size_bytes=1)
            assert visible(store, "s")

    asyncio.run(main())


def test_a_full_disk_at_the_commit_is_said_as_such(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it the ledger's head is what it was, so the outcome is known: nothing was written."""
    fail_once(monkeypatch, apsw.FullError("full"))

    async def main() -> None:
        async with running(store) as writer:
            with pytest.raises(StorageFull):
                await writer.submit(keyed(), size_bytes=1)
            assert isinstance(await writer.submit(keyed(), size_bytes=1), Committed)

    asyncio.run(main())


def test_a_ledger_that_cannot_be_opened_again_at_once_is_opened_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage was away for a moment: the service must not stay refusing until somebody restarts it."""
    fail_once(monkeypatch, apsw.IOError("sync"))
    original = ledger_file.open_ledger
    refusals = iter([True])

    def open_ledger(*arguments: object) -> Connection:
        if next(refusals, False):
            raise RefusedToStart("the storage is away")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger_file, "open_ledger", open_ledger)

    async def main() -> None:
        async with running(store) as writer:
            with pytest.raises(OutcomeUnknown):
                await writer.submit(keyed(), size_bytes=1)
            for _ in range(2):
                try:
                    outcome = await writer.submit(keyed(), size_bytes=1)
                except (Overloaded, OutcomeUnknown):
                    continue
                assert isinstance(outcome, Committed)
                return
            pytest.fail("the writer never opened the ledger again")

    asyncio.run(main())


@pytest.mark.parametrize(
    "failure", [sql_errors.CommitFailed(), ProjectionFailed("roles", "ValueError"), apsw.FullError("views")]
)
def test_views_that_cannot_be_opened_again_at_once_are_opened_later(
    store: Store, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Behind a failed commit the views fail too, whatever their reason: the thread lives on and looks again."""
    fail_once(monkeypatch, apsw.IOError("sync"))
    original = Views.open
    failures = iter([failure])

    def open_views(views: Views, ledger_db: Connection) -> str | None:
        for error in failures:
            raise error
        return original(views, ledger_db)

    monkeypatch.setattr(Views, "open", open_views)

    async def main() -> None:
        async with running(store) as writer:
            with pytest.raises(OutcomeUnknown):
                await writer.submit(keyed(), size_bytes=1)
            assert not writer.alive
            assert isinstance(await writer.submit(keyed(), size_bytes=1), Committed | Replayed)
            assert writer.alive

    asyncio.run(main())


def test_a_fault_of_ours_fails_its_group_and_not_the_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction is rolled back, the caller is told, the next command is served."""
    original = Group.decide

    def decide(group: Group, submission: Submission) -> Accepted | Replayed | DomainError:
        if isinstance(submission.command, AppendMessages):
            raise ZeroDivisionError
        return original(group, submission)

    monkeypatch.setattr(Group, "decide", decide)

    async def main() -> None:
        async with running(store) as writer:
            await writer.submit(create("s"), size_bytes=1)
            with pytest.raises(ZeroDivisionError):
                await writer.submit(append("s", message("m1")), size_bytes=1)
            await writer.submit(create("t"), size_bytes=1)
            assert store.views.position == 2

    asyncio.run(main())


def test_a_repair_builds_the_views_anew_between_two_groups(store: Store) -> None:
    """Asked for from any thread; afterwards all is there, in a new file."""

    async def main() -> None:
        async with running(store) as writer:
            await writer.submit(create("s", message("m1")), size_bytes=1)
            generation = store.views.generation
            writer.repair()
            await writer.submit(append("s", message("m2")), size_bytes=1)
            assert store.views.generation == generation + 1
            assert store.views.position == 3
            assert visible(store, "s")

    asyncio.run(main())


class Broken:
    """A module's `log`, or another thing that it calls, whose every call raises while it is broken."""

    def __init__(self, failure: BaseException) -> None:
        self.failure: BaseException | None = failure

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*_: object, **__: object) -> None:
            if self.failure is not None:
                raise self.failure

        return call


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), SystemExit(), StopIteration()])
def test_a_log_that_cannot_be_written_does_not_end_the_writer(
    store: Store, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """The disk was full, and the log was on it: an answer all the same, and the next command is committed (F1)."""
    fail_once(monkeypatch, apsw.FullError("full"))
    monkeypatch.setattr(writer_module, "log", Broken(failure))

    async def main() -> None:
        async with running(store) as writer:
            with pytest.raises((StorageFull, OutcomeUnknown)):
                await asyncio.wait_for(writer.submit(keyed(), size_bytes=1), LIMIT_S)
            assert isinstance(await asyncio.wait_for(writer.submit(keyed(), size_bytes=1), LIMIT_S), Committed)
            assert visible(store, "s")
            assert writer.alive
            assert writer.queue_length == 0

    asyncio.run(main())


def test_what_waits_behind_a_failure_is_committed_by_the_thread_that_begins_again(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group that was under way has an unknown outcome; of the others nothing is lost, and the order stays."""
    observe, broken = Histogram.observe, iter([True])

    def observe_badly(histogram: Histogram, value: float) -> None:
        if next(broken, False):
            raise SystemExit
        observe(histogram, value)

    async def main() -> None:
        async with running(store, gate) as writer:
            first = send(writer, create("s"))
            await gate.entered()
            monkeypatch.setattr(Histogram, "observe", observe_badly)
            behind = [send(writer, append("s", message("m1"))), send(writer, append("s", message("m2")))]
            erased = asyncio.create_task(writer.erased())
            await let_run(first, *behind)
            gate.open()
            found = await asyncio.wait_for(asyncio.gather(first, *behind, return_exceptions=True), LIMIT_S)
            assert [type(each) for each in found] == [OutcomeUnknown, Committed, Committed]
            await asyncio.wait_for(erased, LIMIT_S)
            assert store.views.position == 3
            assert writer.queue_length == 0

    asyncio.run(main())


def test_a_writer_that_cannot_go_on_answers_everybody_and_says_so(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 for what waits and what still comes, at once: nobody waits for a thread that is gone."""
    monkeypatch.setattr(threads, "PAUSE_S", 0.0)

    def no_outcome(*_: object, **__: object) -> None:
        raise SystemExit

    async def main() -> None:
        async with running(store, gate) as writer:
            gone = threading.Event()
            writer.on_gone = gone.set
            first = send(writer, create("s"))
            await gate.entered()
            monkeypatch.setattr(Writer, "_idle_s", no_outcome)
            monkeypatch.setattr(Writer, "_checkpoint", no_outcome)
            behind = send(writer, create("t"))
            erased = asyncio.create_task(writer.erased())
            await let_run(first, behind)
            gate.open()
            assert isinstance(await asyncio.wait_for(first, LIMIT_S), Committed)
            assert await asyncio.to_thread(gone.wait, LIMIT_S)
            with pytest.raises(Overloaded):
                await asyncio.wait_for(behind, LIMIT_S)
            with pytest.raises(ErasurePending):
                await asyncio.wait_for(erased, LIMIT_S)
            assert (writer.gone, writer.alive, writer.queue_length) == (True, False, 0)
            with pytest.raises(Overloaded):
                await asyncio.wait_for(writer.submit(create("late"), size_bytes=1), LIMIT_S)

    asyncio.run(main())


def test_a_stop_that_meets_a_failure_is_a_stop(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal was taken from the queue when the thread failed: it ends all the same, and waits for no other."""
    do = Writer._do

    def do_badly(writer: Writer, task: Task) -> None:
        if task is Signal.STOP:
            monkeypatch.undo()
            raise SystemExit
        do(writer, task)

    monkeypatch.setattr(Writer, "_do", do_badly)

    async def main() -> None:
        async with running(store) as writer:
            await writer.submit(create("s"), size_bytes=1)
        assert not writer.alive

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))
