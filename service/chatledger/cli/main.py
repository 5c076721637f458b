"""The command `chatledger`."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

from chatledger import __version__
from chatledger.cli.api_key import key
from chatledger.cli.backup import backup, restore
from chatledger.cli.erase import erase
from chatledger.cli.export import export
from chatledger.cli.options import (
    Commands,
    FileToRead,
    WholeNumber,
    check_tenant,
    database_option,
    saying_new_key,
    settings_with,
)
from chatledger.cli.progress import Progress, late_progress
from chatledger.cli.replay import replay
from chatledger.cli.settings import settings
from chatledger.cli.verify import verify
from chatledger.console import streams
from chatledger.console.terminal import say, visible, write
from chatledger.errors import ChatledgerError, OutputFailed
from chatledger.maintenance import local_ledger
from chatledger.observability import logs
from chatledger.observability.log_sink import LogSink
from chatledger.observability.logs import FORMS, LEVELS
from chatledger.serving.process import set_up
from chatledger.serving.signals import hold_signals
from chatledger.settings import Settings, variable_of
from chatledger.storage.paths import Location
from chatledger.transfer import importer
from chatledger.transfer.json_lines import Rejected

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
@click.option(
    "--log-level",
    metavar="LEVEL",
    type=click.Choice(LEVELS),
    help="Log from debug, info, warning or error on.  [default: info]",
)
@click.option(
    "--log-format",
    metavar="FORM",
    type=click.Choice(FORMS),
    help="Log as json or text.  [default: text on a terminal, else json]",
)
@click.option("--new-signing-key", is_flag=True, help="Make a signing key for a ledger whose own is lost.")
def serve(
    database: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    log_level: str | None,
    log_format: str | None,
    new_signing_key: bool,  # noqa: FBT001
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C."""
    hold_signals()
    from chatledger.serving.server import serve as run  # noqa: PLC0415  # the server is not needed by the other commands

    settings = settings_with(
        database_path=database, host=host, port=port, workers=workers, log_level=log_level, log_format=log_format
    )
    logs.set_up(settings.log_level, form=settings.log_format)
    logs.catch_all()
    out = LogSink(sys.stdout.fileno())  # nobody waits for a reader who does not read, and a lost line is no failure
    if new_signing_key and settings.in_memory:
        raise click.UsageError("A ledger in memory gets a new signing key at each start: leave --new-signing-key out.")

    def announce(url: str, events: int | None) -> None:
        served = _what_is_served(settings, events)
        for line in (f"chatledger serves {served} on {url}", f"API page: {url}/schema"):
            out.write(visible(line).encode(errors="backslashreplace") + b"\n")

    run(settings, announce=announce, new_signing_key=new_signing_key)


def _what_is_served(settings: Settings, events: int | None) -> str:
    """Which ledger, where it lies, and whether this is the one that one thinks of: a wrong path begins a new one."""
    if settings.in_memory:
        return "a ledger in memory, of which nothing is kept,"
    size = "new ledger" if events is None else "1 event" if events == 1 else f"{events:,} events"
    return f"{Location.of(settings).ledger} ({size})"


@cli.command("import", short_help="Import sessions from JSON lines or from a CRUD store's file.")
@database_option
@click.option("--tenant", default="default", show_default=True, help="Put sessions that name no tenant into this one.")
@click.argument("file", type=FileToRead(allow_dash=True))
def import_(database: str | None, tenant: str, file: Path) -> None:
    """Import FILE: JSON lines, or the SQLite file of the CRUD store.

    Lines may come from a pipe or, as -, from standard input, and may be compressed with gzip.

    It can be run again after an interruption: what is there already is passed over.
    """
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    source = importer.open_source(file, settings, tenant_id=tenant)
    with saying_new_key(settings, "import"), ExitStack() as stack:
        stack.callback(source.close)
        committer = stack.enter_context(local_ledger.writing(settings))
        progress = stack.enter_context(
            Progress("import", unit=source.unit, total=source.total, bytes_=source.unit == "bytes")
        )
        report = importer.run(
            committer,
            source,
            on_rejected=_say_rejected(),
            on_progress=progress.update,
            on_views=late_progress(stack, "views", unit="events"),
        )
    say(
        f"{report.sessions} sessions with {report.messages} messages imported, {report.present} were there already, "
        f"{report.rejected} rejected"
    )
    if report.failure is not None:
        raise report.failure
    if report.rejected:
        sys.exit(1)


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
    found = local_ledger.status_of(settings_with(database_path=database))
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
    streams.prepare()
    set_up()
    logs.set_up("warning")
    code = _run()
    try:
        streams.finish()
    except OutputFailed as error:
        if code == 0:
            _refuse(error)
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
        say(f"chatledger: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        say("Aborted.", err=True)
        return 130
    except ChatledgerError as error:
        _refuse(error)
        return 1
    return code if isinstance(code, int) else 0


def _refuse(error: ChatledgerError) -> None:
    """Say why it ends, behind what was logged."""
    if isinstance(error, OutputFailed) and error.error.errno == errno.EPIPE:
        return  # whoever read it has enough, as in `… | head`
    logs.flush()
    if os.environ.get(variable_of("log_level")) == "debug":
        write(visible("".join(traceback.format_exception(error)), keep="\n"), err=True)
    say(f"chatledger: {error}", err=True)


def _say_usage(error: click.UsageError) -> None:
    """As click says it, with what the user has written on one line."""
    if isinstance(error, _NO_ARGUMENTS):
        error.show()
        return
    if error.ctx is not None:
        hint = f"Try '{error.ctx.command_path} --help' for help."
        write(visible(f"{error.ctx.get_usage()}\n{hint}\n", keep="\n"), err=True)
    say(f"Error: {error.format_message()}", err=True)


if __name__ == "__main__":
    main()
