"""What the commands of the command line have in common: options, their types, and the settings that they change."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from chatledger import os_errors
from chatledger.console.terminal import say
from chatledger.domain.ids import ID_RULE, is_id
from chatledger.errors import RefusedToStart, UnsoundProof
from chatledger.maintenance import local_ledger
from chatledger.proofs.signed_heads import Verifier, has_key, key_path, verifier_beside
from chatledger.settings import Settings, load_settings
from chatledger.storage import ledger_file, sql_errors
from chatledger.storage.paths import Location

F = TypeVar("F", bound=Callable[..., Any])


class Command(click.Command):
    """A command that refuses an option that is given twice: click would pass over all but the last one, silently."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*.

        Raises:
            UsageError: an option that takes a value is there twice.
        """
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option in given:
            if isinstance(option, click.Option) and not option.is_flag and given.count(option) > 1:
                raise click.UsageError(f"{option.opts[0]} is given twice; only one can count.", ctx)
        return super().parse_args(ctx, args)


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


@contextmanager
def saying_new_key(settings: Settings, command: str) -> Iterator[None]:
    """Say on standard error, behind the block, that it made the ledger and with it a signing key, if it did.

    A server has it in its log. The line begins as those of the progress do: what scripts look for are other ones.
    """
    location = Location.of(settings)
    is_new = not settings.in_memory and not has_key(location, settings)
    yield
    if is_new and has_key(location, settings):
        path, verifier = key_path(location, settings), verifier_beside(location, settings)
        say(f"{command}: made the ledger's signing key {path}; its public key is {verifier}", err=True)


def say_older_schema(settings: Settings) -> None:
    """Say on standard error that the ledger is of an older chatledger, where it is: it is read, and not migrated."""
    try:
        with local_ledger.reading_ledger(local_ledger.existing(settings), settings) as ledger_db:
            schema, newest = ledger_file.schema_of(ledger_db), ledger_file.newest_schema()
    except sql_errors.UnfinishedTransaction:
        return  # whoever may write plays it back first
    if schema < newest:
        say(f"the ledger has schema {schema}, this chatledger {newest}: it is read as it is", err=True)


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

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(path_type=Path, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """As click does, with the system's reason."""
        path = Path(value)
        if self.allow_dash and value == "-":
            return path
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            reason = os_errors.reason_of(error) if isinstance(error, OSError) else str(error)
            self.fail(f"{os_errors.shortened(os.fspath(path))}: {reason}.", param, ctx)
        if stat.S_ISDIR(mode):
            self.fail(f"{path} is a folder.", param, ctx)
        return path


class Commands(click.Group):
    """Commands of which each says in one line what the system or SQLite refuse, with the name of the file."""

    command_class = Command
    group_class = type

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            RefusedToStart: instead of an error of the system's, of SQLite's or of a text's encoding.
        """
        try:
            return super().invoke(ctx)
        except OSError as error:
            os_errors.refuse(error, _ledger(ctx))
        except sql_errors.SQLError as error:
            sql_errors.refuse(error, _ledger(ctx))
        except UnicodeError as error:
            raise RefusedToStart(f"A text is not in the encoding that it should have: {error}.") from error


def _ledger(ctx: click.Context) -> str:
    """The ledger's file, as far as it is known by then."""
    return ctx.obj.database_path if isinstance(ctx.obj, Settings) else os.curdir


def verifier_key(_context: click.Context, _option: click.Parameter, text: str | None) -> Verifier | None:
    """The public key that an option names: refused where it is none, before anything else is read or checked."""
    if text is None:
        return None
    if text.strip().startswith("PRIVATE+KEY+"):
        raise click.BadParameter("That is a private signing key. Give its public key, and the private one to nobody.")
    try:
        return Verifier.of(text)
    except UnsoundProof as error:
        raise click.BadParameter(f"{error} Expected the `public_key` of GET /v1/ledger/head.") from None
