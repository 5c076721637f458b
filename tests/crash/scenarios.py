"""What the product does while its calls on files are recorded: each scenario is real code, from a folder to its end."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from chatledger.domain.commands import CreateKey, EraseSession
from chatledger.domain.events import KEYS_SESSION, SYSTEM_TENANT, KeyCreated
from chatledger.errors import ChatledgerError
from chatledger.ledger import event_store, tree_store
from chatledger.ledger.idempotency_store import IdempotencyKey
from chatledger.maintenance import backup, restore
from chatledger.proofs.signed_heads import signer_of
from chatledger.settings import Settings
from chatledger.storage import ledger_file
from chatledger.storage.paths import Location
from chatledger.views.rebuilder import Rebuilder
from chatledger.writing import erasure
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.command_group import Committed, Replayed, Submission
from chatledger.writing.committer import Committer, hold
from chatledger.writing.writer import Writer
from crash.account import Account, Fact, Group, read_rows
from crash.disk import Recorder
from support.canary import CANARY
from support.old_ledgers import migrations, older_ledger
from support.store import append, appending, create, delete, message, remove, submit, update

BUSY_TIMEOUT_MS = 200
ERASED = "secret"
"""The session whose content is `CANARY`, in the scenarios that erase."""


def settings_of(root: Path, **more: Any) -> Settings:
    """Those of all scenarios and of the starts on their images: the ledger is in `data`, copies in `backups`."""
    path = str(root / "data" / "ledger.db")
    return Settings(database_path=path, busy_timeout_ms=BUSY_TIMEOUT_MS, allow_network_filesystem=True, **more)


class Stage:
    """Where a scenario acts: the folder, and what it tells of."""

    def __init__(self, root: Path, account: Account, recorder: Recorder | None, *, early: bool = False) -> None:
        self.root = root
        self.account = account
        self.settings = settings_of(root)
        self._recorder = recorder
        self._early = early  # a seeded bug: the answer goes out before the commit

    def _now(self, mark: str) -> int:
        if self._recorder is None:
            return -1
        self._recorder.mark(mark)
        return len(self._recorder.trace.ops) - 1

    def sending(self) -> Group:
        """A group goes to the writer."""
        group = Group(self._now("sent"))
        if self._early:
            group.acknowledged_at = self._now("acknowledged")
        self.account.groups.append(group)
        return group

    def acknowledge(self, group: Group) -> None:
        """Its answer has come."""
        if group.acknowledged_at is None:
            group.acknowledged_at = self._now("acknowledged")

    def fact(self, kind: str, value: Any) -> None:
        """Something that the world knows now."""
        self.account.facts.append(Fact(self._now(kind), kind, value))

    @contextmanager
    def serving(self, **more: Any) -> Iterator[Committer]:
        """The start of a server, and its end."""
        settings = settings_of(self.root, **more)
        location = Location.of(settings)
        with hold(location, settings) as committer:
            committer.views.open(committer.ledger)
            identity = event_store.identity(committer.ledger)
            self.fact("identity", identity)
            events = event_store.head(committer.ledger).position
            self.fact("key", str(signer_of(location, settings, identity, events=events).verifier))
            erasure.finish(committer, wait_ms=BUSY_TIMEOUT_MS)
            yield committer
            self.account.add_rows(read_rows(committer.ledger))

    def commit(self, committer: Committer, *submissions: Submission) -> None:
        """One group, of which nothing may be refused; then a head is handed out."""
        group = self.sending()
        outcomes = committer.commit(submissions)
        assert all(isinstance(each, (Committed, Replayed)) for each in outcomes), outcomes
        self.acknowledge(group)
        group.first = len(self.account.rows) + 1
        self.account.add_rows(read_rows(committer.ledger))
        group.last = len(self.account.rows)
        head = tree_store.read(committer.ledger)
        self.account.heads.append((head.size, head.root()))


def sample(number: int) -> list[list[Submission]]:
    """Groups of all kinds of commands; *number* makes their ids others."""
    s, t, u = f"s{number}", f"t{number}", f"u{number}"
    key = IdempotencyKey(f"key-{number}", bytes([number % 256]) * 32)
    created = KeyCreated(key_id=f"k_{number:012}", sha256=f"{number:064x}", scopes=("read",), tenant_id="default")
    return [
        [create(s, message("m1"), title="A title")],
        [append(s, message("m2", "x" * 700)), create(t), create(u, message("m1"), tenant="other")],
        [append(s, message("m3"))],
        [append(s, *(message(f"b{each}", "batch " * 20) for each in range(6)))],
        [submit(s, appending([message("m4")]), key=key)],
        [update(s, title="Another", traits={"mood": "good"})],
        [remove(s, "m2"), append(t, message("m1"))],
        [submit(KEYS_SESSION, CreateKey(created, 100), tenant=SYSTEM_TENANT)],
        [delete(t)],
        [append(u, message("m2", "y" * 3000), tenant="other")],
        [append(s, message("last"))],
    ]


def erase(session: str, tenant: str = "default") -> Submission:
    """Erase a session."""
    return submit(session, EraseSession("asked for"), tenant=tenant)


def _with_content(stage: Stage) -> None:
    with stage.serving() as committer:
        for group in sample(0):
            stage.commit(committer, *group)


def _with_secret(stage: Stage) -> None:
    with stage.serving() as committer:
        for group in sample(0):
            stage.commit(committer, *group)
        content = [message(f"m{number}", f"{CANARY} {number} " * 30) for number in range(4)]
        stage.commit(committer, create(ERASED, *content, title=CANARY))
        stage.commit(committer, append("s0", message("after")))


def _nothing(stage: Stage) -> None:
    del stage


def _commits(stage: Stage) -> None:
    with stage.serving() as committer:
        for group in sample(1):
            stage.commit(committer, *group)


def _commits_that_checkpoint(stage: Stage) -> None:
    """SQLite's own checkpoints, inside commits."""
    with stage.serving(wal_checkpoint_pages=12) as committer:
        for number in (1, 2):
            for group in sample(number):
                stage.commit(committer, *group)


def _checkpoints(stage: Stage) -> None:
    """The checkpointer's, beside the writer and by it."""
    settings = settings_of(stage.root, wal_checkpoint_pages=10)
    with stage.serving(wal_checkpoint_pages=10) as committer:
        checkpointer = Checkpointer(committer.location, settings, committer.views)
        checkpointer.start()
        try:
            for number in (1, 2):
                for group in sample(number):
                    stage.commit(committer, *group)
                    checkpointer.after_group(committer.ledger)
                    if checkpointer._busy:
                        checkpointer._copied.wait(10)
        finally:
            checkpointer.close()


def _stops(stage: Stage) -> None:
    groups = sample(1)
    for start in range(0, len(groups), 3):
        with stage.serving() as committer:
            for group in groups[start : start + 3]:
                stage.commit(committer, *group)


def _migrate(schema: int) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        _with_content(stage)
        path, older = Path(stage.settings.database_path), stage.root / "older.db"
        older_ledger(path, older, schema)
        older.replace(path)

    return prepare


def _few_commits(stage: Stage) -> None:
    with stage.serving() as committer:
        for group in sample(1)[:3]:
            stage.commit(committer, *group)


def _rebuild(stage: Stage) -> None:
    """Twice, beside the live views, with commits before and after the swap."""
    with stage.serving() as committer:
        groups = iter(sample(1))
        rebuilder = Rebuilder(committer.location, stage.settings, committer.views)
        for _ in range(2):
            built = threading.Event()
            stage.commit(committer, *next(groups))
            rebuilder.start(built.set)
            thread = rebuilder._thread
            assert thread is not None
            assert built.wait(30)
            stage.commit(committer, *next(groups))
            rebuilder.swap(committer.ledger)
            stage.commit(committer, *next(groups))
            thread.join(30)
            stage.commit(committer, *next(groups))


def _without_views(stage: Stage) -> None:
    _with_content(stage)
    for path in (stage.root / "data").glob("ledger.db.views.*"):
        path.unlink()


def _erasures(stage: Stage) -> None:
    with stage.serving() as committer:
        stage.commit(committer, erase(ERASED))
        erasure.finish(committer, wait_ms=BUSY_TIMEOUT_MS)
        stage.commit(committer, append("s0", message("later")))
        stage.commit(committer, erase("u0", "other"), erase("t0"))
        erasure.finish(committer, wait_ms=BUSY_TIMEOUT_MS)
        stage.commit(committer, append("s0", message("last-of-all")))


def _say_nothing(done: int, total: int) -> None:
    del done, total


STEPS = restore.Steps(copied=_say_nothing, verified=_say_nothing, viewed=_say_nothing)


def take_backup(root: Path, name: str = "copy.db", settings: Settings | None = None) -> int:
    """Back up into `backups`; the events of the copy."""
    found = backup.backup(
        settings or settings_of(root),
        root / "backups" / name,
        on_copied=_say_nothing,
        on_verified=_say_nothing,
        pages_a_step=8,
    )
    return found.size


def _backups(stage: Stage) -> None:
    groups = iter(sample(1))
    with stage.serving() as committer:
        stage.commit(committer, *next(groups))
        stage.fact("backup", ("copy.db", take_backup(stage.root)))
        stage.commit(committer, *next(groups))
    stage.fact("backup", ("second.db", take_backup(stage.root, "second.db")))


def _for_backup(stage: Stage) -> None:
    (stage.root / "backups").mkdir()
    _with_content(stage)


def _for_restore(stage: Stage) -> None:
    """A backup of a ledger with an erasure, and the ledger is gone but for its views and the like."""
    (stage.root / "backups").mkdir()
    _with_secret(stage)
    take_backup(stage.root)
    with stage.serving() as committer:
        stage.commit(committer, append("s0", message("lost-with-the-disk")))


def _lose_ledger(stage: Stage) -> None:
    for path in (stage.root / "data").glob("ledger.db*"):
        if not path.name.endswith((".erasures", ".key")):
            path.unlink()


def _for_restore_of_all(stage: Stage) -> None:
    _for_restore(stage)
    _lose_ledger(stage)


def _for_restore_of_erased(stage: Stage) -> None:
    """The backup is older than an erasure, which only the list beside the lost ledger knows."""
    _for_restore(stage)
    with stage.serving() as committer:
        stage.commit(committer, erase(ERASED))
        erasure.finish(committer, wait_ms=BUSY_TIMEOUT_MS)
    _lose_ledger(stage)


def _for_restore_to(stage: Stage) -> None:
    _for_restore(stage)
    with stage.serving() as committer:
        stage.commit(committer, erase(ERASED))
        erasure.finish(committer, wait_ms=BUSY_TIMEOUT_MS)
    take_backup(stage.root, "erased.db")
    _lose_ledger(stage)


def restore_here(root: Path, name: str = "copy.db", to_position: int | None = None) -> None:
    """Restore a copy in `backups`."""
    restore.restore(settings_of(root), root / "backups" / name, STEPS, to_position=to_position)


def _restore(name: str, to_position: int | None) -> Callable[[Stage], None]:
    def run(stage: Stage) -> None:
        account = stage.account
        account.rows, account.groups, account.heads = [], [], []
        copied = _size_of(stage.root / "backups" / name) if to_position is None else to_position
        restore_here(stage.root, name, to_position)
        stage.fact("restored", value=True)
        with closing(ledger_file.open_ledger_reader(Location.of(stage.settings), stage.settings)) as db:
            account.rows = read_rows(db)
        # Whoever restores knows that it was interrupted, and does it again: so all of it is promised from the start.
        account.groups.append(Group(-1, -1, 1, len(account.rows)))
        account.remade = frozenset(range(copied + 1, len(account.rows) + 1))

    return run


def _size_of(path: Path) -> int:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        return int(db.execute("SELECT max(position) FROM events").get)


def _writer(stage: Stage) -> None:
    """All of it with its threads: the writer, the checkpointer, a rebuild, an erasure, and several clients."""
    asyncio.run(_with_threads(stage))


async def _with_threads(stage: Stage) -> None:
    settings = settings_of(stage.root, wal_checkpoint_pages=10)
    location = Location.of(settings)
    named: dict[tuple[str, int], Group] = {}
    with hold(location, settings) as committer:
        committer.views.open(committer.ledger)
        rebuilder = Rebuilder(location, settings, committer.views)
        writer = Writer(committer, settings, Checkpointer(location, settings, committer.views), rebuilder)
        writer.start()

        async def send(submission: Submission) -> None:
            group = stage.sending()
            outcome = await writer.submit(submission, size_bytes=100)
            assert isinstance(outcome, Committed)
            stage.acknowledge(group)
            named[submission.session_id, outcome.version] = group

        async def client(number: int) -> None:
            for place in range(6):
                await send(append("s0", message(f"c{number}-{place}")))

        await asyncio.gather(*map(client, range(4)))
        with suppress(ChatledgerError):
            writer.rebuild()
        await asyncio.gather(*map(client, range(4, 7)))
        while rebuilder.progress is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # nobody is told when a rebuild is over
        await send(erase(ERASED))
        await writer.erased()
        await asyncio.gather(*map(client, range(7, 9)))
        await writer.close()
    with closing(ledger_file.open_ledger_reader(location, settings)) as db:
        stage.account.add_rows(read_rows(db))
    for row in stage.account.rows:
        group = named.get((row[3], row[4]))
        if group is not None:
            group.first = group.last = row[0]


@dataclass(frozen=True)
class Scenario:
    """`prepare` is not recorded and lies synced on the disk; `run` is. `again` brings back what a restore did not."""

    name: str
    prepare: Callable[[Stage], None]
    run: Callable[[Stage], None]
    again: Callable[[Path], None] | None = None
    erases: bool = False
    weight: float = 1.0
    """Of its share of the images; less where a start takes long."""


def _again(name: str, to_position: int | None = None) -> Callable[[Path], None]:
    return lambda root: restore_here(root, name, to_position)


_MIGRATIONS = tuple(
    Scenario(f"migration from {schema}", _migrate(schema), _few_commits) for schema, _ in migrations()[:-1]
)
SCENARIOS: Sequence[Scenario] = (
    Scenario("first start", _nothing, _commits),
    Scenario("commits", _with_content, _commits),
    Scenario("commits that checkpoint", _with_content, _commits_that_checkpoint),
    Scenario("checkpoints", _with_content, _checkpoints),
    Scenario("stops", _with_content, _stops),
    *_MIGRATIONS,
    Scenario("rebuild", _with_content, _rebuild),
    Scenario("start without views", _without_views, _few_commits),
    Scenario("erasure", _with_secret, _erasures, erases=True),
    Scenario("backup", _for_backup, _backups),
    Scenario("restore", _for_restore_of_all, _restore("copy.db", None), weight=0.4, again=_again("copy.db")),
    Scenario(
        "restore of what was erased",
        _for_restore_of_erased,
        _restore("copy.db", None),
        weight=0.4,
        again=_again("copy.db"),
    ),
    Scenario(
        "restore to a position", _for_restore_to, _restore("erased.db", 20), weight=0.4, again=_again("erased.db", 20)
    ),
    Scenario("writer", _with_secret, _writer, erases=True),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def prepared(scenario: Scenario, root: Path) -> Account:
    """Put what is there before the scenario into *root*; the account of it, all acknowledged."""
    account = Account()
    with ExitStack():
        scenario.prepare(Stage(root, account, None))
    return account
