"""Work on a ledger's files without a server: what the commands of the command line share."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from chatledger import __version__
from chatledger.domain.timestamps import now_us
from chatledger.errors import LedgerLocked, RefusedToStart
from chatledger.ledger import event_store
from chatledger.ledger.api_key_store import read_keys
from chatledger.proofs.signed_heads import make_first_key
from chatledger.settings import Settings
from chatledger.storage import file_access, ledger_file, sql_errors, transactions
from chatledger.storage.connection import Connection
from chatledger.storage.paths import Address, Location, is_file, is_held, noted_address
from chatledger.views.builder import Progress
from chatledger.views.detached_views import ViewsUnreadable, note_of, open_live, views_to_read
from chatledger.views.live_views import Views
from chatledger.writing import erasure
from chatledger.writing.committer import Committer, hold


@contextmanager
def writing(settings: Settings, *, views_progress: Progress | None = None) -> Iterator[Committer]:
    """The ledger for writing, its views caught up. Folder, ledger and signing key are made if there is no ledger.

    Raises:
        LedgerLocked: a server or another command writes to it.
        RefusedToStart: rule 10.
    """
    location = _in_files(settings)
    with hold(location, settings) as committer:
        position = event_store.head(committer.ledger).position
        make_first_key(location, settings, event_store.identity(committer.ledger), events=position)
        committer.views.open(committer.ledger, views_progress)
        # What a crash has left. A reader that holds the logs is no reason to refuse: whoever writes next goes on.
        erasure.finish(committer, wait_ms=erasure.RETRY_TIMEOUT_MS)
        yield committer


@contextmanager
def rebuilding(settings: Settings) -> Iterator[tuple[Views, Connection]]:
    """The ledger of *settings*, and its views, which are not opened: they are about to be built anew."""
    with hold(existing(settings), settings) as committer:
        yield committer.views, committer.ledger


@contextmanager
def reading_ledger(location: Location, settings: Settings) -> Iterator[Connection]:
    """A read-only connection to the ledger, of whatever schema up to ours it is: nothing is migrated.

    Raises:
        RefusedToStart: it is not there, not ours, of a newer schema, or cannot be read where it lies.
        LedgerDamaged: it is no SQLite database, or a damaged one.
    """
    with file_access.unchanged(location.ledger):
        with sql_errors.storage_failures_named(location.ledger):
            connection = ledger_file.open_ledger_reader(location, settings)
        with closing(connection):
            yield connection


@contextmanager
def reading(settings: Settings, *, views_progress: Progress | None = None) -> Iterator[tuple[Connection, Connection]]:
    """Read-only connections to the views and the ledger.

    Beside a running server its views are up to date; without one they are brought up to date first. Where the ledger
    is of an older schema, or cannot be written, nothing is changed: views that cannot be used are built aside.
    """
    location = existing(settings)
    in_use = _bring_up_to_date(location, settings)
    with (
        reading_ledger(location, settings) as ledger_db,
        views_to_read(location, settings, ledger_db, may_lag=in_use, progress=views_progress) as views_db,
        transactions.snapshot(views_db),
    ):
        yield views_db, ledger_db


@contextmanager
def reading_events(settings: Settings) -> Iterator[Connection]:
    """As `reading`, for whoever needs no views."""
    location = existing(settings)
    _bring_up_to_date(location, settings)
    with reading_ledger(location, settings) as ledger_db:
        yield ledger_db


def _bring_up_to_date(location: Location, settings: Settings) -> bool:
    """Have what a crash has left finished, and the views follow, if that may be; whether a server does so by itself."""
    if not file_access.may_write(location):
        return bool(is_held(location))
    try:
        with reading_ledger(location, settings) as ledger_db:
            if ledger_file.schema_of(ledger_db) < ledger_file.newest_schema():
                return bool(is_held(location))
    except sql_errors.UnfinishedTransaction:
        pass  # opening it for writing plays it back
    try:
        with writing(settings):
            return False
    except LedgerLocked:
        return True


def server_beside(settings: Settings, locked: LedgerLocked) -> Address:
    """The server that holds the ledger, to be asked instead.

    Raises:
        LedgerLocked: it is *locked* by another command, which cannot be asked.
    """
    address = noted_address(existing(settings))
    if address is None:
        raise locked
    return address


class Status(msgspec.Struct, frozen=True):
    """What `chatledger status` shows. Sizes are in bytes with their write-ahead logs.

    What cannot be known is None: of views that are missing or cannot be used, for the reason in `views_problem`, and
    whether the ledger is in use where this user may not look at its lock. `keys` are those that are good now, `url` is
    that of the server that has the ledger.
    """

    version: str
    ledger: str
    ledger_id: str
    schema: int
    events: int
    sessions: int | None
    messages: int | None
    keys: int
    ledger_bytes: int
    views: str
    views_position: int | None
    views_lag_events: int | None
    views_bytes: int
    views_problem: str
    in_use: bool | None
    url: str | None


class _ViewsStatus(msgspec.Struct, frozen=True):
    name: str = ""
    position: int | None = None
    sessions: int | None = None
    messages: int | None = None
    problem: str = ""


def status_of(settings: Settings) -> Status:
    """Look at the files and change nothing.

    Raises:
        RefusedToStart: there is no ledger, or it or its views cannot be read.
    """
    location = existing(settings)
    with reading_ledger(location, settings) as ledger_db:
        ledger_id, head = event_store.identity(ledger_db), event_store.head(ledger_db).position
        schema, keys = ledger_file.schema_of(ledger_db), read_keys(ledger_db).keys.values()
    in_use = is_held(location)
    server = noted_address(location) if in_use else None
    views = _views_status(location, settings, ledger_id)
    return Status(
        version=__version__,
        ledger=location.ledger,
        ledger_id=ledger_id,
        schema=schema,
        events=head,
        sessions=views.sessions,
        messages=views.messages,
        keys=sum(key.is_active(now_us()) for key in keys),
        ledger_bytes=_size(location.ledger),
        views=views.name,
        views_position=views.position,
        views_lag_events=None if views.position is None else max(0, head - views.position),
        views_bytes=_size(views.name) if views.name else 0,
        views_problem=views.problem,
        in_use=in_use,
        url=None if server is None else server.url,
    )


def _views_status(location: Location, settings: Settings, ledger_id: str) -> _ViewsStatus:
    try:
        name, db = open_live(location, settings)
    except ViewsUnreadable as error:
        return _ViewsStatus(problem=str(error))
    with closing(db), transactions.snapshot(db):
        note = note_of(db)
        if note is None:
            return _ViewsStatus(name, problem="damaged")
        if not note.serves_readers(ledger_id):
            return _ViewsStatus(name, note.position, problem="of other projections, or of another ledger")
        try:
            sessions = int(db.execute("SELECT count(*) FROM live_sessions").get)
            messages = int(db.execute("SELECT coalesce(sum(message_count), 0) FROM live_sessions").get)
        except sql_errors.SQLError:
            return _ViewsStatus(name, note.position, problem="damaged")
    return _ViewsStatus(name, note.position, sessions, messages)


def existing(settings: Settings) -> Location:
    """The location of a ledger that is there.

    Raises:
        RefusedToStart: it is not, or the system does not say.
    """
    location = _in_files(settings)
    if not is_file(location.ledger):
        raise RefusedToStart(f"There is no ledger at {settings.database_path}.")
    if not Path(location.ledger).stat().st_size:
        raise RefusedToStart(f"There is no ledger at {settings.database_path}: the file is empty.")
    return location


def _in_files(settings: Settings) -> Location:
    if settings.in_memory:
        raise RefusedToStart("A ledger in memory cannot be reached from another process.")
    return Location.of(settings)


def _size(name: str) -> int:
    paths = (Path(name), Path(name + "-wal"))
    return sum(path.stat().st_size for path in paths if path.exists())
