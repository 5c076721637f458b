"""What the commands of the command line have in common: options, their types, and the settings that they change."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from service import database, failures
from service.errors import RefusedToStart
from service.ids import ID_RULE, is_id
from service.settings import Settings, load_settings
from service.terminal import failed

F = TypeVar("F", bound=Callable[..., Any])


def database_option(function: F) -> F:
    """Add `--database`."""
    return click.option("--database", metavar="PATH", help="Use the ledger in this file.  [default: DATABASE_PATH]")(
        function
    )


def settings_with(**options: object) -> Settings:
    """The environment's settings with the *options* that were given."""
    settings = load_settings()
    given = {name: value for name, value in options.items() if value is not None}
    settings = msgspec.structs.replace(settings, **given)
    context = click.get_current_context(silent=True)
    if context is not None:
        context.find_root().obj = settings
    return settings


def check_tenant(tenant: str | None) -> None:
    """Refuse what is no tenant's id."""
    if tenant is not None and not is_id(tenant):
        raise click.BadParameter(f"{ID_RULE}.", param_hint="--tenant")


class WholeNumber(click.IntRange):
    """A whole number, and a refusal that says from where to where."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """As click does."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            ends = f"of at least {self.min}" if self.max is None else f"from {self.min} to {self.max}"
            self.fail(f"{value!r} is not a whole number {ends}.", param, ctx)


class FileToRead(click.Path):
    """A file that is there. click's own says of each that cannot be looked at that it does not exist."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """As click does, with the system's reason."""
        path = Path(value)
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            reason = failures.reason_of(error) if isinstance(error, OSError) else str(error)
            self.fail(f"{failures.shortened(os.fspath(path))}: {reason}.", param, ctx)
        if stat.S_ISDIR(mode):
            self.fail(f"{path} is a folder.", param, ctx)
        return path


class Commands(click.Group):
    """Commands of which each says in one line what the system or SQLite refuse, with the name of the file."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            RefusedToStart: instead of an error of the system's, of SQLite's or of a text's encoding.
            OutputFailed: what the command prints cannot be written.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read what it printed has enough
        except OSError as error:
            if ctx.obj is None and error.filename is None:  # a command's help, which click prints
                raise failed("output", error) from error
            failures.refuse(error, _ledger(ctx))
        except database.SQLError as error:
            database.refuse(error, _ledger(ctx))
        except UnicodeError as error:
            raise RefusedToStart(f"A text is not in the encoding that it should have: {error}.") from error


def _ledger(ctx: click.Context) -> str:
    """The ledger's file, as far as it is known by then."""
    return ctx.obj.database_path if isinstance(ctx.obj, Settings) else os.curdir
