"""The command `chatledger`."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
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
from service.options import Command, check_tenant, database_option, saying_new_key, settings_with
from service.progress import Progress, late_progress

REJECTED_SHOWN = 20
"""How many rejected sessions an import names; a wrong file has as many as lines."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chatledger")
def cli() -> None:
    """The system of record for chat: an append-only, verifiable event ledger with an HTTP API."""


@cli.command(cls=Command)
@database_option
@click.option("--host", help="The address to serve on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to serve on.  [default: 8000]")
@click.option("--workers", type=click.IntRange(1, 64), help="The processes that serve.  [default: 1]")
@click.option("--new-signing-key", is_flag=True, help="Make a signing key for a ledger whose own is lost.")
def serve(
    database: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    new_signing_key: bool,  # noqa: FBT001
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C."""
    from service.server import serve as run  # noqa: PLC0415  # the server is not needed by the other commands

    settings = settings_with(database_path=database, host=host, port=port, workers=workers)
    log.set_up(settings.log_level)
    if new_signing_key and settings.in_memory:
        raise click.UsageError("A ledger in memory gets a new signing key at each start: leave --new-signing-key out.")

    def announce(url: str) -> None:
        click.echo(f"chatledger serves {settings.database_path} on {url}")
        click.echo(f"API page: {url}/schema")

    run(settings, announce=announce, new_signing_key=new_signing_key)


@cli.command("import", cls=Command)
@database_option
@click.option("--tenant", default="default", show_default=True, help="The tenant of sessions that name none.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_(database: str | None, tenant: str, file: Path) -> None:
    """Import FILE: JSON lines, or the SQLite file of the CRUD store.

    It can be run again after an interruption: what is there already is passed over.
    """
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    source = importer.open_source(file, settings, tenant_id=tenant)
    with saying_new_key(settings, "import"), ExitStack() as stack:
        committer = stack.enter_context(offline.writing(settings))
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
    click.echo(
        f"{report.sessions} sessions with {report.messages} messages imported, {report.present} were there already, "
        f"{report.rejected} rejected"
    )
    if report.rejected:
        sys.exit(1)


def _say_rejected() -> Callable[[Rejected], None]:
    said = 0

    def say(rejected: Rejected) -> None:
        nonlocal said
        said += 1
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


@cli.command(cls=Command)
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
    if sys.stderr is not None:
        log.set_up("warning")  # else structlog writes to standard output; serve sets it anew
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
