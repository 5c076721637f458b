"""The command `chatledger`."""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import click
import msgspec

from service import __version__, importer, log, offline
from service.cli_backup import backup, restore
from service.cli_erase import erase
from service.cli_export import export
from service.cli_key import key
from service.cli_replay import replay
from service.cli_settings import settings
from service.cli_verify import verify
from service.errors import ChatledgerError, OutputFailed
from service.garbage import calm_garbage_collector
from service.import_lines import Rejected
from service.location import Location
from service.options import Commands, FileToRead, WholeNumber, check_tenant, database_option, settings_with
from service.progress import Progress
from service.settings import Settings, variable_of
from service.terminal import failed, finish_streams, prepare_streams, say, visible, write

REJECTED_SHOWN = 20
"""How many rejected sessions an import names; a wrong file has as many as lines."""

_NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What newer versions of click raise for `chatledger` alone: its message is the help."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chatledger")
def cli() -> None:
    """The system of record for chat: an append-only, verifiable event ledger with an HTTP API."""


@cli.command(short_help="Serve the HTTP API until SIGTERM or Ctrl-C.")
@database_option
@click.option("--host", help="Serve on this address.  [default: 127.0.0.1]")
@click.option("--port", type=WholeNumber(0, 65535), help="Serve on this port; 0 takes a free one.  [default: 8000]")
@click.option("--workers", type=WholeNumber(1, 64), help="Serve with so many processes.  [default: 1]")
def serve(database: str | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C."""
    from service.server import serve as run  # noqa: PLC0415  # the server is not needed by the other commands

    settings = settings_with(database_path=database, host=host, port=port, workers=workers)
    log.set_up(settings.log_level)

    def announce(url: str, events: int | None) -> None:
        say(f"chatledger serves {_what_is_served(settings, events)} on {url}")
        say(f"API page: {url}/schema")

    run(settings, announce=announce)


def _what_is_served(settings: Settings, events: int | None) -> str:
    """Which ledger, where it lies, and whether this is the one that one thinks of: a wrong path begins a new one."""
    if settings.in_memory:
        return "a ledger in memory, of which nothing is kept,"
    size = "new ledger" if events is None else "1 event" if events == 1 else f"{events:,} events"
    return f"{Location.of(settings).ledger} ({size})"


@cli.command("import", short_help="Import sessions from JSON lines or from a CRUD store's file.")
@database_option
@click.option("--tenant", default="default", show_default=True, help="Put sessions that name no tenant into this one.")
@click.argument("file", type=FileToRead())
def import_(database: str | None, tenant: str, file: Path) -> None:
    """Import FILE: JSON lines, or the SQLite file of the CRUD store.

    It can be run again after an interruption: what is there already is passed over.
    """
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    source = importer.open_source(file, settings, tenant_id=tenant)
    with ExitStack() as stack:
        committer = stack.enter_context(offline.writing(settings))
        progress = stack.enter_context(
            Progress("import", unit=source.unit, total=source.total, bytes_=source.unit == "bytes")
        )
        report = importer.run(
            committer,
            source,
            on_rejected=_say_rejected(),
            on_progress=progress.update,
            on_views=_progress_of_views(stack),
        )
    say(
        f"{report.sessions} sessions with {report.messages} messages imported, {report.present} were there already, "
        f"{report.rejected} rejected"
    )
    if report.rejected:
        sys.exit(1)


def _progress_of_views(stack: ExitStack) -> Callable[[int, int], None]:
    """Shown from its first call on, and until *stack* ends: after a small import the views have nothing to catch up."""
    progress: Progress | None = None

    def update(done: int, total: int) -> None:
        nonlocal progress
        if progress is None:
            progress = stack.enter_context(Progress("views", unit="events"))
        progress.update(done, total)

    return update


def _say_rejected() -> Callable[[Rejected], None]:
    said = 0

    def tell(rejected: Rejected) -> None:
        nonlocal said
        said += 1
        if said <= REJECTED_SHOWN:
            say(f"{rejected.where}: {rejected.reason}", err=True)
        elif said == REJECTED_SHOWN + 1:
            say("… and more; the last line has the count", err=True)

    return tell


cli.add_command(erase)
cli.add_command(export)
cli.add_command(key)
cli.add_command(replay)
cli.add_command(verify)
cli.add_command(backup)
cli.add_command(restore)
cli.add_command(settings)


@cli.command(short_help="Show counts, positions, lag and file sizes.")
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines for people.")
def status(database: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show counts, positions, lag and file sizes; also beside a running server."""
    found = offline.status_of(settings_with(database_path=database))
    if as_json:
        write(msgspec.json.encode(found))
        return
    for name, value in msgspec.structs.asdict(found).items():
        say(f"{name.replace('_', ' '):<18}{_shown(name, value)}")


def _shown(name: str, value: str | int | bool | None) -> str:  # noqa: FBT001
    """A figure of the status, for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("sessions", "messages") and value is None:
        return "unknown until the views are built"
    if name == "views" and not value:
        return "no views"
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else value


def main() -> None:
    """Run the command; a refusal is one clear line and exit code 1."""
    calm_garbage_collector()
    os.umask(0o077)  # what we write is other people's conversations
    prepare_streams()
    code = _run()
    try:
        finish_streams()
    except OutputFailed as error:
        if code == 0:
            _say_last(f"chatledger: {error}")
        code = code or 1
    sys.exit(code)


def _run() -> int:
    """Run the command, say why it refuses if it does, and return the exit code."""
    try:
        code = cli.main(prog_name="chatledger", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else bool(end.code)
    except click.UsageError as error:
        _say_usage(error)
        return error.exit_code
    except click.ClickException as error:
        _say_last(f"chatledger: {error.format_message()}")
        return error.exit_code
    except click.Abort:
        _say_last("Aborted.")
        return 130
    except (ChatledgerError, OSError) as error:
        if os.environ.get(variable_of("log_level")) == "debug":
            _say_last(traceback.format_exc(), keep="\n")
        # The system's own error is here only where click could not print our help or version.
        _say_last(f"chatledger: {failed('output', error) if isinstance(error, OSError) else error}")
        return 1
    return code if isinstance(code, int) else 0


def _say_usage(error: click.UsageError) -> None:
    """As click says it, with what the user has written on one line."""
    if isinstance(error, _NO_ARGUMENTS):
        error.show()
        return
    if error.ctx is not None:
        hint = f"Try '{error.ctx.command_path} --help' for help."
        _say_last(f"{error.ctx.get_usage()}\n{hint}\n", keep="\n")
    _say_last(f"Error: {error.format_message()}")


def _say_last(text: str, *, keep: str = "") -> None:
    """Say why it ends. Where that cannot be written either, the exit code has to do."""
    with suppress(OutputFailed, BrokenPipeError):
        write(visible(text, keep=keep), err=True)


if __name__ == "__main__":
    main()
