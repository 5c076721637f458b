"""`chatledger backup` and `chatledger restore`."""

from contextlib import ExitStack
from pathlib import Path

import click

from chatledger.cli.options import Command, WholeNumber, database_option, say_older_schema, settings_with
from chatledger.cli.progress import Progress
from chatledger.console.terminal import say
from chatledger.maintenance.backup import backup as back_up
from chatledger.maintenance.restore import Steps
from chatledger.maintenance.restore import restore as bring_back

_PATH = click.Path(path_type=Path)


@click.command(cls=Command, short_help="Copy the ledger into a new file and verify the copy.")
@database_option
@click.argument("dest", type=_PATH)
def backup(database: str | None, dest: Path) -> None:
    """Copy the ledger into the new file DEST and verify it; also beside a running server.

    The signing key is not in it: keep a copy of that elsewhere.
    """
    settings = settings_with(database_path=database)
    with ExitStack() as stack:
        found = back_up(
            settings,
            dest,
            on_copied=_Shown(stack, "copy", "pages").update,
            on_verified=_Shown(stack, "verify", "events").update,
        )
    say(f"{found.size} events backed up into {dest}; the tree's root is {found.root().hex()}")
    say_older_schema(settings)


@click.command(cls=Command, short_help="Bring the ledger back from a backup.")
@database_option
@click.option("--to-position", type=WholeNumber(min=1), metavar="N", help="Leave out the events behind position N.")
@click.argument("src", type=_PATH)
def restore(database: str | None, to_position: int | None, src: Path) -> None:
    """Bring the ledger back from the backup SRC: verified, with its views.

    It is refused where a ledger is there already. What was erased since the backup is erased again, by the list of
    erasures that lies beside the ledger's place.
    """
    settings = settings_with(database_path=database)
    with ExitStack() as stack:
        steps = Steps(
            copied=_Shown(stack, "copy", "pages" if to_position is None else "events").update,
            verified=_Shown(stack, "verify", "events").update,
            viewed=_Shown(stack, "views", "events").update,
        )
        found, key_to_do = bring_back(settings, src, steps, to_position=to_position)
    say(f"{found.size} events restored into {settings.database_path}; the tree's root is {found.root().hex()}")
    if key_to_do:
        say(key_to_do)


class _Shown:
    """The progress of one step of several: it begins when the step does, and ends with the command or the next one."""

    def __init__(self, stack: ExitStack, what: str, unit: str) -> None:
        self._stack = stack
        self._what = what
        self._unit = unit
        self._progress: Progress | None = None

    def update(self, done: int, total: int) -> None:
        """Say that *done* of *total* is done."""
        if self._progress is None:
            self._stack.close()  # the step before has ended
            self._progress = self._stack.enter_context(Progress(self._what, unit=self._unit, total=total))
        self._progress.update(done, total)
