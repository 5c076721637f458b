"""`chatledger replay --check`: are the live views what the ledger makes of them?"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import msgspec

from chatledger.errors import RefusedToStart
from chatledger.ledger import event_store
from chatledger.maintenance import local_ledger
from chatledger.settings import Settings
from chatledger.storage import sql_errors, transactions
from chatledger.storage.connection import Connection
from chatledger.views import compare
from chatledger.views.builder import Progress, versions_of
from chatledger.views.compare import Difference
from chatledger.views.detached_views import Note, ViewsUnreadable, built_aside, note_of, open_live
from chatledger.views.live_views import BUILT_IN
from chatledger_projections import projection
from chatledger_projections.projection import Projection


class ViewsNotChecked(RefusedToStart):
    """There was nothing that a rebuild could be held against; that says nothing of the ledger."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The views were not checked: {reason}.")


class Checked(msgspec.Struct, frozen=True):
    """The position up to which views and rebuild were compared, and how many events the ledger has behind it."""

    position: int
    behind_events: int


def check(settings: Settings, *, on_difference: Callable[[Difference], None], progress: Progress) -> Checked:
    """Build views anew from the ledger, in a file that is removed again, and hold the live ones against them.

    Both have the events up to the position that the live views had at the start: a server may go on meanwhile. The
    ledger may be of an older schema; it is read and not migrated.

    Args:
        settings: Those of the server, with the same projections.
        on_difference: Called with each difference.
        progress: Called as the views are built.

    Raises:
        ViewsNotChecked: there are none, they cannot be read, or other projections made them.
        RefusedToStart: there is no ledger; or the views are damaged, of another ledger or of another history.
    """
    location = local_ledger.existing(settings)
    projections = (*BUILT_IN, *projection.load(settings.projections))
    with local_ledger.reading_ledger(location, settings) as ledger_db:
        head = event_store.head(ledger_db).position  # before the views are looked at, which a server may take further
        try:
            _, live = open_live(location, settings)
        except ViewsUnreadable as error:
            raise ViewsNotChecked(str(error)) from error
        with closing(live), transactions.snapshot(live):
            note = _comparable(live, ledger_db, projections)
            rebuilding = built_aside(location, settings, projections, ledger_db, note.position, progress)
            with rebuilding as rebuilt, _damage_named():
                for difference in compare.differences(live, rebuilt):
                    on_difference(difference)
    return Checked(note.position, max(0, head - note.position))


def _comparable(live: Connection, ledger_db: Connection, projections: Sequence[Projection]) -> Note:
    """What the live views say of themselves, if they are to be what *projections* make of this ledger."""
    note = note_of(live)
    if note is None:
        raise RefusedToStart("The views are damaged; the next start builds them anew.")
    if note.ledger_id != event_store.identity(ledger_db):
        raise RefusedToStart("The views are those of another ledger; the next start builds them anew.")
    if note.projections != versions_of(projections):
        raise ViewsNotChecked(
            f"they were built by the projections {note.projections}, and those of now are {versions_of(projections)}; "
            f"the next start builds them anew"
        )
    if note.position and event_store.leaf_at(ledger_db, note.position) != note.leaf:
        raise RefusedToStart("The views have events that the ledger does not have; the next start builds them anew.")
    return note


@contextmanager
def _damage_named() -> Iterator[None]:
    """Say of a damaged page that it is the views': what reads the ledger says so itself."""
    try:
        yield
    except (sql_errors.SQLError, UnicodeDecodeError) as error:
        if isinstance(error, sql_errors.SQLError) and not sql_errors.is_damage(error):
            raise
        raise RefusedToStart("The views are damaged; the next start builds them anew.") from error
