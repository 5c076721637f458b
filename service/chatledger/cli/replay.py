"""`chatledger replay`: the views built anew, here or by the server that has them; or only checked."""

import sys

import click

from chatledger.cli import ledger_client
from chatledger.cli.options import Command, database_option, say_older_schema, settings_with
from chatledger.cli.progress import Progress
from chatledger.console.terminal import say
from chatledger.errors import LedgerLocked
from chatledger.maintenance import check_views, local_ledger
from chatledger.settings import Settings
from chatledger.views.compare import Difference

DIFFERENCES_SHOWN = 20
"""How many differences a check names; views of another history have as many as rows."""


@click.command(cls=Command, short_help="Rebuild the views from the ledger, or check them.")
@database_option
@click.option("--check", "only_check", is_flag=True, help="Change nothing, and compare the views with a rebuild.")
def replay(database: str | None, only_check: bool) -> None:  # noqa: FBT001
    """Rebuild the views from the ledger alone, into a new file that then takes the old one's place.

    Beside a running server it has the server do it, which goes on serving.
    """
    settings = settings_with(database_path=database)
    if only_check:
        same = compare_views(settings, "replay")
        say_older_schema(settings)
        if not same:
            sys.exit(1)
        return
    try:
        _here(settings)
    except LedgerLocked as locked:
        address = local_ledger.server_beside(settings, locked)
        with Progress("replay", unit="events") as progress:
            generation = ledger_client.rebuild(address, progress.update)
        say(f"the server at {address.url} has rebuilt its views: generation {generation}")


def _here(settings: Settings) -> None:
    with local_ledger.rebuilding(settings) as (views, ledger_db):
        with Progress("replay", unit="events") as progress:
            views.rebuild(ledger_db, progress.update)
        say(f"{views.position} events replayed into {views.name}")


def compare_views(settings: Settings, label: str) -> bool:
    """Hold the live views against a rebuild, say what differs, and tell whether nothing does."""
    found = 0

    def tell(difference: Difference) -> None:
        nonlocal found
        found += 1
        if found <= DIFFERENCES_SHOWN:
            say(str(difference))
        elif found == DIFFERENCES_SHOWN + 1:
            say("… and more; the last line has the count")

    with Progress(label, unit="events") as progress:
        checked = check_views.check(settings, on_difference=tell, progress=progress.update)
    if found:
        say(f"{found} differences between the views and a rebuild of {checked.position} events")
    else:
        say(f"the views are what {checked.position} events make of them")
    if checked.behind_events:
        say(f"the views lack the newest {checked.behind_events} events, which the next start gives them")
    return found == 0
