"""Work on a ledger's files without a server: what the commands of the command line share."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from projections.build import Progress
from projections.views import Views
from service import __version__, database, erasure, ledger
from service.clock import now_us
from service.committer import Committer, hold, read_keys
from service.database import Connection
from service.errors import LedgerLocked, RefusedToStart
from service.location import Address, Location, exclusive, is_file, noted_address
from service.settings import Settings


@contextmanager
def writing(settings: Settings, *, views_progress: Progress | None = None) -> Iterator[Committer]:
    """The ledger for writing, its views caught up. The folder and the ledger are made if they are not there.

    Raises:
        LedgerLocked: a server or another command writes to it.
        RefusedToStart: rule 10.
    """
    with hold(_in_files(settings), settings) as committer:
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
def reading(settings: Settings) -> Iterator[tuple[Connection, Connection]]:
    """Read-only connections to the views and the ledger.

    Beside a running server its views are up to date; without one they are brought up to date first.
    """
    location = existing(settings)
    try:
        with writing(settings):
            pass
    except LedgerLocked:
        pass
    connections = [open_live(Views(location, settings), location, settings)]
    try:
        connections.append(database.open_reader(location.ledger, location, settings))
        with database.snapshot(connections[0]):
            yield connections[0], connections[1]
    finally:
        for connection in connections:
            connection.close()


def server_beside(settings: Settings, locked: LedgerLocked) -> Address:
    """The server that holds the ledger, to be asked instead.

    Raises:
        LedgerLocked: it is *locked* by another command, which cannot be asked.
    """
    address = noted_address(existing(settings))
    if address is None:
        raise locked
    return address


def open_live(views: Views, location: Location, settings: Settings) -> Connection:
    """A read-only connection to the views that are live now, also if a server swaps others in just then.

    Raises:
        RefusedToStart: they are not there, or cannot be opened.
    """
    while True:
        try:
            return database.open_reader(views.name, location, settings)
        except RefusedToStart:
            newest = max(location.generations(), default=0)
            if newest == views.generation:
                raise
            views.generation = newest


class Status(msgspec.Struct, frozen=True):
    """What `chatledger status` shows. Sizes are in bytes with their write-ahead logs.

    What is counted in the views is None where there are none. `keys` are those that are good now, `url` is that of the
    server that has the ledger.
    """

    version: str
    ledger: str
    ledger_id: str
    events: int
    sessions: int | None
    messages: int | None
    keys: int
    ledger_bytes: int
    views: str
    views_position: int | None
    views_lag_events: int | None
    views_bytes: int
    in_use: bool
    url: str | None


def status_of(settings: Settings) -> Status:
    """Look at the files and change nothing.

    Raises:
        RefusedToStart: there is no ledger, or it or its views cannot be read.
    """
    location = existing(settings)
    views = Views(location, settings)
    with closing(database.open_ledger_reader(location, settings)) as ledger_db:
        head = ledger.head(ledger_db).position
        sessions = messages = reached = None
        if views.generation:
            reached, sessions, messages = _counted(views, location, settings)
        in_use = _in_use(location)
        server = noted_address(location) if in_use else None
        return Status(
            version=__version__,
            ledger=location.ledger,
            ledger_id=ledger.identity(ledger_db),
            events=head,
            sessions=sessions,
            messages=messages,
            keys=sum(key.is_active(now_us()) for key in read_keys(ledger_db).keys.values()),
            ledger_bytes=_size(location.ledger),
            views=views.name if views.generation else "",
            views_position=reached,
            views_lag_events=None if reached is None else head - reached,
            views_bytes=_size(views.name) if views.generation else 0,
            in_use=in_use,
            url=None if server is None else server.url,
        )


def _counted(views: Views, location: Location, settings: Settings) -> tuple[int, int, int]:
    """The position that the live views have reached, and the sessions and messages that readers see in them.

    Raises:
        RefusedToStart: they cannot be read.
    """
    try:
        with closing(open_live(views, location, settings)) as db:
            reached = int(db.execute("SELECT position FROM views").get)
            sessions = int(db.execute("SELECT count(*) FROM live_sessions").get)
            messages = int(db.execute("SELECT coalesce(sum(message_count), 0) FROM live_sessions").get)
    except database.SQLError as error:
        database.refuse(error, views.name)
    return reached, sessions, messages


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


def _in_use(location: Location) -> bool:
    try:
        with exclusive(location):
            return False
    except LedgerLocked:
        return True


def _size(name: str) -> int:
    paths = (Path(name), Path(name + "-wal"))
    return sum(path.stat().st_size for path in paths if path.exists())
