"""`chatledger export`: sessions, events, or one session for people."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from chatledger.cli.options import Command, check_tenant, database_option, say_older_schema, settings_with
from chatledger.cli.progress import Progress, late_progress
from chatledger.errors import NotFound, RefusedToStart
from chatledger.maintenance import local_ledger
from chatledger.storage.connection import Connection
from chatledger.storage.files import OwnFiles, check_output
from chatledger.storage.files import output as writing_to
from chatledger.storage.paths import Location
from chatledger.transfer import exporter
from chatledger.transfer.markdown import markdown as transcript


@click.command(cls=Command, short_help="Write sessions or events as JSON lines, or one as Markdown.")
@database_option
@click.option("--tenant", help="Write what is this tenant's.  [default: default; with --events all tenants]")
@click.option("--session", metavar="ID", help="Write this session alone.")
@click.option("--events", is_flag=True, help="Write every event, as CloudEvents 1.0 JSON lines.")
@click.option("--markdown", is_flag=True, help="Write the session as Markdown, for people to read.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write into this file.  [default: standard output]",
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
    with ExitStack() as stack, _named(session):
        if events:
            ledger_db = stack.enter_context(local_ledger.reading_events(settings))
            parts, unit = _events(ledger_db, tenant, session), "events"
        else:
            with ExitStack() as shown:
                progress_of_views = late_progress(shown, "views", unit="events")
                views, _ = stack.enter_context(local_ledger.reading(settings, views_progress=progress_of_views))
            if markdown and session is not None:
                found = exporter.find_session(views, tenant or "default", session)
                parts, unit = transcript(views, found), "messages"
            else:
                parts, unit = _sessions(views, tenant or "default", session), "sessions"
        with writing_to(output, own) as file, Progress("export", unit=unit) as progress:
            for number, part in parts:
                file.write(part)
                progress.update(number)
    say_older_schema(settings)


@contextmanager
def _named(session: str | None) -> Iterator[None]:
    """Name the *session* that is not there.

    Raises:
        RefusedToStart: it is not.
    """
    try:
        yield
    except NotFound as error:
        raise RefusedToStart(f"{session}: {error}") from error


def _events(ledger_db: Connection, tenant: str | None, session: str | None) -> Iterator[tuple[int, bytes]]:
    if session is None:
        return exporter.event_lines(ledger_db, tenant_id=tenant)
    return exporter.session_event_lines(ledger_db, tenant or "default", session)


def _sessions(views: Connection, tenant: str, session: str | None) -> Iterator[tuple[int, bytes]]:
    if session is None:
        return exporter.session_lines(views, tenant)
    return exporter.session_line(views, exporter.find_session(views, tenant, session))
