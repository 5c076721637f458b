"""The views of a ledger that is only read: the live ones as they are, or others built aside and removed again."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from chatledger.errors import RefusedToStart
from chatledger.ledger import event_store
from chatledger.settings import Settings
from chatledger.storage import file_access, sql_errors
from chatledger.storage.connection import Connection, open_reader
from chatledger.storage.paths import BUILDING, Location, remove
from chatledger.views.builder import ASIDE, Builder, Progress
from chatledger.views.live_views import BUILT_IN
from chatledger_projections.projection import Projection

_NOTE = "SELECT ledger_id, projections, position, leaf FROM main.views"


class ViewsUnreadable(RefusedToStart):
    """There are no views to be read; the message says why, without a subject."""


class Note(msgspec.Struct, frozen=True):
    """What views say of themselves: whose they are, of which versions of the projections, and how far they have come.

    `projections` is the JSON text of their names and versions.
    """

    ledger_id: str
    projections: str
    position: int
    leaf: bytes

    def serves_readers(self, ledger_id: str) -> bool:
        """Whether the tables that readers use are those that this version of chatledger knows."""
        try:
            found = msgspec.json.decode(self.projections, type=dict[str, int])
        except msgspec.DecodeError:
            return False
        known = all(found.get(projection.name) == projection.version for projection in BUILT_IN)
        return known and self.ledger_id == ledger_id


def open_live(location: Location, settings: Settings) -> tuple[str, Connection]:
    """The name of the views that are live now, and a read-only connection; also if a server swaps others in just then.

    Raises:
        ViewsUnreadable: there are none, or they cannot be opened.
    """
    generation = -1
    while True:
        try:
            newest = max(location.generations(), default=0)
        except OSError as error:
            raise ViewsUnreadable(f"the folder cannot be listed ({error.strerror})") from error
        if not newest:
            raise ViewsUnreadable("there are none")
        name = location.views(newest)
        try:
            return name, open_reader(name, location, settings)
        except RefusedToStart as error:
            if newest == generation:
                raise ViewsUnreadable(str(error).rstrip(".")) from error
            generation = newest
        except sql_errors.SQLError as error:
            raise ViewsUnreadable(f"{Path(name).name} is damaged; `chatledger replay` builds them anew") from error


def note_of(views_db: Connection) -> Note | None:
    """What the views say of themselves, or None where they are damaged."""
    try:
        row = views_db.execute(_NOTE).fetchone()
        return None if row is None else Note(*msgspec.convert(row, tuple[str, str, int, bytes]))
    except (sql_errors.SQLError, UnicodeDecodeError, msgspec.ValidationError):
        return None


@contextmanager
def views_to_read(
    location: Location, settings: Settings, ledger_db: Connection, *, may_lag: bool, progress: Progress | None = None
) -> Iterator[Connection]:
    """Views with the tables that readers use: the live ones if they can be used as they are, else views built aside.

    Args:
        location: Where the ledger lies.
        settings: For the connections.
        ledger_db: The ledger; it is read, whatever schema it has.
        may_lag: Whether live views do that lack events, because a server is about to give them these.
        progress: Called while views are built aside.
    """
    live = _usable(location, settings, ledger_db, may_lag=may_lag)
    if live is not None:
        with closing(live):
            yield live
        return
    target = event_store.head(ledger_db).position
    with built_aside(location, settings, BUILT_IN, ledger_db, target, progress or (lambda _done, _total: None)) as made:
        yield made


def _usable(location: Location, settings: Settings, ledger_db: Connection, *, may_lag: bool) -> Connection | None:
    head = event_store.head(ledger_db).position
    try:
        _, live = open_live(location, settings)
    except ViewsUnreadable:
        return None
    note = note_of(live)
    if note is not None and note.serves_readers(event_store.identity(ledger_db)):
        of_this_history = not note.position or event_store.leaf_at(ledger_db, note.position) == note.leaf
        if may_lag or (note.position == head and of_this_history):
            return live
    live.close()
    return None


@contextmanager
def built_aside(
    location: Location,
    settings: Settings,
    projections: Sequence[Projection],
    ledger_db: Connection,
    target: int,
    progress: Progress,
) -> Iterator[Connection]:
    """Views of the events up to *target*, for as long as the block takes.

    They are a file beside the ledger, or where nothing can be written there, in a private folder of temporary files.

    Raises:
        RefusedToStart: the storage fails, or has no room.
        LedgerDamaged: an event cannot be read.
    """
    with _aside(location) as name:
        builder = Builder(name, location, settings, projections)
        with sql_errors.storage_failures_named(name):
            made = builder.build(ledger_db, progress, target=target)
        with closing(made):
            if not Path(name).exists():
                raise RefusedToStart(
                    "The ledger was opened anew meanwhile, which removes unfinished views: run the command again."
                )
            yield made


@contextmanager
def _aside(location: Location) -> Iterator[str]:
    if not file_access.may_write_folder(location):
        with tempfile.TemporaryDirectory(prefix="chatledger-") as folder:
            yield str(Path(folder) / f"views{BUILDING}")
        return
    # A start removes what this leaves if it is killed. It is no other rebuild's name.
    name = f"{location.ledger}.views.check-{os.getpid()}{BUILDING}"
    try:
        yield name
    finally:
        remove(name)
        remove(name + ASIDE)
