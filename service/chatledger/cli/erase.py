"""`chatledger erase`: sessions erased for good, here or by the server that has the ledger."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import click
import msgspec

from chatledger.cli import ledger_client
from chatledger.cli.options import Command, check_tenant, database_option, settings_with
from chatledger.console.terminal import say
from chatledger.domain.access import LOCAL
from chatledger.domain.ids import is_id
from chatledger.errors import LedgerLocked
from chatledger.ledger import event_store
from chatledger.maintenance import local_ledger
from chatledger.settings import Settings
from chatledger.storage.paths import Address
from chatledger.writing import erasure
from chatledger.writing.committer import Committer
from chatledger_projections import sessions

REASON_CHARACTERS_MAX = 1000
TIMEOUT_S = 600.0
"""The server overwrites what was erased before it answers."""

REQUESTS_AT_ONCE = 32
NO_SESSION = "this user has no session in the tenant"


class _Answer(ledger_client.Answered, frozen=True):
    version: int = 0
    events_erased: int = 0
    forks: tuple[str, ...] = ()


@click.command(cls=Command, short_help="Erase a session, or all sessions of a user, for good.")
@database_option
@click.option("--session", help="Erase this session.")
@click.option("--user", help="Erase all sessions of this user, deleted ones too.")
@click.option("--tenant", default="default", show_default=True, help="Look for them in this tenant.")
@click.option("--reason", required=True, help="Say why: it stays in the history of each session.")
def erase(database: str | None, session: str | None, user: str | None, tenant: str, reason: str) -> None:
    """Erase a session, or all sessions of a user: their content is gone for good.

    Beside a running server it has the server do it.
    """
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    if (session is None) == (user is None):
        raise click.UsageError("Either --session or --user is needed.")
    if not 1 <= len(reason) <= REASON_CHARACTERS_MAX or "\0" in reason:
        raise click.BadParameter(f"Expected 1 to {REASON_CHARACTERS_MAX} characters.", param_hint="--reason")
    if session is not None and not is_id(session):
        raise click.BadParameter("This is no session's id.", param_hint="--session")
    local_ledger.existing(settings)
    try:
        with local_ledger.writing(settings) as committer:
            _here(committer, tenant, session, user, reason)
    except LedgerLocked as locked:
        address = local_ledger.server_beside(settings, locked)
        _there(address, tenant, _wanted_beside(settings, tenant, session, user), reason)


def _here(committer: Committer, tenant: str, session: str | None, user: str | None, reason: str) -> None:
    views_db, ledger_db = committer.views.db, committer.ledger
    wanted = [session] if session is not None else []
    if user is not None:
        wanted = sessions.of_user(views_db, tenant, user)
    if not wanted:
        say(NO_SESSION)
    for name in wanted:
        erasure.erase(committer, tenant_id=tenant, session_id=name, reason=reason, actor=LOCAL.actor)
    erasure.finish_now(committer)
    for name in wanted:
        stream = event_store.find_stream(ledger_db, tenant, name)
        version = 0 if stream is None else event_store.version_of(ledger_db, stream)
        _say(name, version - 1, sessions.forks(views_db, tenant, name))


def _there(address: Address, tenant: str, wanted: list[str], reason: str) -> None:
    # Several at a time: what waits for the server's writer is one group, for which it writes its files anew once.
    if not wanted:
        say(NO_SESSION)
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        answers = pool.map(lambda name: _ask(address, tenant, name, reason), wanted)
        for name, answer in zip(wanted, answers, strict=True):
            _say(name, answer.events_erased, answer.forks)


def _wanted_beside(settings: Settings, tenant: str, session: str | None, user: str | None) -> list[str]:
    if user is None:
        return [] if session is None else [session]
    with local_ledger.reading(settings) as (views_db, _):
        return sessions.of_user(views_db, tenant, user)


def _say(session: str, events_erased: int, forks: Sequence[str]) -> None:
    say(f"{session}: {events_erased} events erased")
    for fork in forks:
        say(f"{session}: the fork {fork} holds copies")


def _ask(address: Address, tenant: str, session: str, reason: str) -> _Answer:
    return ledger_client.call(
        address,
        "POST",
        f"/v1/sessions/{session}/erase",
        answer=_Answer,
        body=msgspec.json.encode({"reason": reason}),
        headers={"Content-Type": "application/json", "X-Tenant-Id": tenant},
        about=f"{session}: ",
        timeout_s=TIMEOUT_S,
    )
