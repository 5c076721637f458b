"""The command `chatledger`."""

import io
import os
import sys
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
from service.cli_verify import verify
from service.errors import ChatledgerError
from service.garbage import calm_garbage_collector
from service.import_lines import Rejected
from service.options import check_tenant, database_option, settings_with
from service.progress import Progress

REJECTED_SHOWN = 20
"""How many rejected sessions an import names; a wrong file has as many as lines."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chatledger")
def cli() -> None:
    """The system of record for chat: an append-only, verifiable event ledger with an HTTP API."""


@cli.command()
@database_option
@click.option("--host", help="The address to serve on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to serve on.  [default: 8000]")
@click.option("--workers", type=click.IntRange(1, 64), help="The processes that serve.  [default: 1]")
def serve(database: str | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C."""
    from service.server import serve as run  # noqa: PLC0415  # the server is not needed by the other commands

    settings = settings_with(database_path=database, host=host, port=port, workers=workers)
    log.set_up(settings.log_level)

    def announce(url: str) -> None:
        click.echo(f"chatledger serves {settings.database_path} on {url}")
        click.echo(f"API page: {url}/schema")

    run(settings, announce=announce)


@cli.command("import")
@database_option
@click.option("--tenant", default="default", show_default=True, help="The tenant of sessions that name none.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
def import_(database: str | None, tenant: str, file: Path) -> None:
    """Import FILE: JSON lines, or the SQLite file of the CRUD store.

    Lines may come from a pipe or, as -, from standard input, and may be compressed with gzip.

    It can be run again after an interruption: what is there already is passed over.
    """
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    source = importer.open_source(file, settings, tenant_id=tenant)
    with ExitStack() as stack:
        stack.callback(source.close)
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
    click.echo(
        f"{report.sessions} sessions with {report.messages} messages imported, {report.present} were there already, "
        f"{report.rejected} rejected"
    )
    if report.failure is not None:
        raise report.failure
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

    def say(rejected: Rejected) -> None:
        nonlocal said
        said += 1
        with suppress(OSError):  # they are counted also where they cannot be shown
            if said <= REJECTED_SHOWN:
                click.echo(f"{rejected.where}: {rejected.reason}", err=True)
            elif said == REJECTED_SHOWN + 1:
                click.echo("… and more; the last line has the count", err=True)

    return say


cli.add_command(erase)
cli.add_command(export)
cli.add_command(key)
cli.add_command(replay)
cli.add_command(verify)
cli.add_command(backup)
cli.add_command(restore)


@cli.command()
@database_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines for people.")
def status(database: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show counts, positions, lag and file sizes; also beside a running server."""
    found = offline.status_of(settings_with(database_path=database))
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for name, value in msgspec.structs.asdict(found).items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        click.echo(f"{name.replace('_', ' '):<18}{'-' if value is None else shown}")


def main() -> None:
    """Run the command; a refusal is one clear line and exit code 1."""
    calm_garbage_collector()
    os.umask(0o077)  # what we write is other people's conversations
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal's encoding lacks, as standard error shows it
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(130)
    except ChatledgerError as error:
        click.echo(f"chatledger: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
