"""`chatledger export`: sessions, events, or one session for people."""

from collections.abc import Iterator
from pathlib import Path

import click

from service import exporter, offline
from service.database import Connection
from service.files import OwnFiles, check_output
from service.files import output as writing_to
from service.location import Location
from service.options import check_tenant, database_option, settings_with
from service.progress import Progress
from service.transcript import markdown as transcript


@click.command()
@database_option
@click.option("--tenant", help="Only this tenant's.  [default: default; with --events all tenants]")
@click.option("--session", metavar="ID", help="Only this session's.")
@click.option("--events", is_flag=True, help="Every event as CloudEvents 1.0 JSON lines.")
@click.option("--markdown", is_flag=True, help="The session as Markdown, for people to read.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.  [default: standard output]",
)
def export(
    database: str | None,
    tenant: str | None,
    session: str | None,
    events: bool,  # noqa: FBT001
    markdown: bool,  # noqa: FBT001
    output: Path | None,
) -> None:
    """Write sessions as the JSON lines that import reads, or every event."""
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    if markdown and events:
        raise click.UsageError("--markdown and --events are two forms; choose one.")
    if markdown and session is None:
        raise click.UsageError("--markdown is of one session: name it with --session.")
    own = OwnFiles.of(Location.of(settings), settings)
    check_output(output, own)
    with offline.reading(settings) as (views, ledger_db):
        if events:
            parts, unit = _events(ledger_db, tenant, session), "events"
        elif markdown and session is not None:
            found = exporter.find_session(views, tenant or "default", session)
            parts, unit = transcript(views, found), "messages"
        else:
            parts, unit = _sessions(views, tenant or "default", session), "sessions"
        with writing_to(output, own) as file, Progress("export", unit=unit) as progress:
            for number, part in parts:
                file.write(part)
                progress.update(number)


def _events(ledger_db: Connection, tenant: str | None, session: str | None) -> Iterator[tuple[int, bytes]]:
    if session is None:
        return exporter.event_lines(ledger_db, tenant_id=tenant)
    return exporter.session_event_lines(ledger_db, tenant or "default", session)


def _sessions(views: Connection, tenant: str, session: str | None) -> Iterator[tuple[int, bytes]]:
    if session is None:
        return exporter.session_lines(views, tenant)
    return exporter.session_line(views, exporter.find_session(views, tenant, session))
