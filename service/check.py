"""`chatledger replay --check`: are the live views what the ledger makes of them?"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from projections import compare, projection
from projections.build import ASIDE, Builder, Progress
from projections.compare import Difference
from projections.views import Views
from service import database, ledger, offline
from service.database import Connection
from service.errors import RefusedToStart
from service.location import BUILDING, Location, remove
from service.settings import Settings


def check(settings: Settings, *, on_difference: Callable[[Difference], None], progress: Progress) -> int:
    """Build views anew from the ledger, in a file that is removed again, and hold the live ones against them.

    Both have the events up to the position that the live views had at the start: a server may go on meanwhile.

    Args:
        settings: Those of the server, with the same projections.
        on_difference: Called with each difference.
        progress: Called as the views are built.

    Returns:
        The position.

    Raises:
        RefusedToStart: there is no ledger, or there are no views of it.
    """
    location = offline.existing(settings)
    views = Views(location, settings, projection.load(settings.projections))
    if not views.generation:
        raise RefusedToStart(f"There are no views of {settings.database_path} to check.")
    with (
        closing(database.open_ledger_reader(location, settings)) as ledger_db,
        closing(offline.open_live(views, location, settings)) as live,
        database.snapshot(live),
    ):
        position = int(live.execute("SELECT position FROM views").get)
        if position > ledger.head(ledger_db).position:
            raise RefusedToStart(
                "The views have events that the ledger does not have; the next start builds them anew."
            )
        with _built(location, settings, views, ledger_db, position, progress) as rebuilt:
            for difference in compare.differences(live, rebuilt):
                on_difference(difference)
    return position


@contextmanager
def _built(
    location: Location, settings: Settings, views: Views, ledger_db: Connection, position: int, progress: Progress
) -> Iterator[Connection]:
    """Views of the events up to *position*, for as long as the block takes."""
    # A start removes what this leaves if it is killed. It is no other rebuild's name.
    name = f"{location.ledger}.views.check-{os.getpid()}{BUILDING}"
    try:
        builder = Builder(name, location, settings, views.projections)
        with closing(builder.build(ledger_db, progress, target=position)) as rebuilt:
            if not Path(name).exists():
                raise RefusedToStart(
                    "The ledger was opened anew meanwhile, which removes unfinished views: check again."
                )
            yield rebuilt
    finally:
        remove(name)
        remove(name + ASIDE)
