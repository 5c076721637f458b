"""`chatledger key`: API keys made, listed and revoked, here or by the server that has the ledger."""

import re
from collections.abc import Iterator, Sequence

import click
import msgspec

from chatledger.application.api_keys import NewKey, key_created
from chatledger.cli import ledger_client
from chatledger.cli.options import Commands, check_tenant, database_option, saying_new_key, settings_with
from chatledger.console import streams
from chatledger.console.terminal import say, write
from chatledger.domain.access import LOCAL
from chatledger.domain.api_keys import new_text
from chatledger.domain.commands import CreateKey, KeyCommand, RevokeKey
from chatledger.domain.documents import key_document
from chatledger.domain.events import KEYS_SESSION, SYSTEM_TENANT
from chatledger.domain.timestamps import format_us, now_us
from chatledger.errors import DomainError, LedgerLocked, OutputFailed, RefusedToStart
from chatledger.ledger import api_key_store
from chatledger.maintenance import local_ledger
from chatledger.storage.paths import Address
from chatledger.writing.command_group import Submission
from chatledger.writing.committer import Committer

PAGE = 200
_PATH = "/v1/admin/keys"
_COLUMNS = ("id", "tenant", "scopes", "state", "last used", "name")
_S_PER_UNIT = {"h": 60 * 60, "d": 24 * 60 * 60}
_is_duration = re.compile(r"([1-9][0-9]{0,4})([hd])").fullmatch


class _Key(msgspec.Struct, frozen=True):
    id: str
    tenant_id: str | None
    name: str | None
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


class _Created(ledger_client.Answered, frozen=True):
    id: str = ""
    key: str = ""


class _Page(ledger_client.Answered, frozen=True):
    data: tuple[_Key, ...] = ()
    next_cursor: str | None = None


@click.group(cls=Commands, short_help="Make, list and revoke API keys.")
def key() -> None:
    """Make, list and revoke API keys.

    Beside a running server it has the server do it.
    """


@key.command(short_help="Make a key and print it, once.")
@database_option
@click.option("--tenant", help="Have the key reach the data of this tenant.")
@click.option("--scopes", default="", help="Allow this, separated by commas: read,write,audit,erase,admin.")
@click.option("--operator", is_flag=True, help="Make a key for whoever runs the service, not a tenant's.")
@click.option("--name", help="Say what it is for, to find it again in the list.")
@click.option("--expires", metavar="DURATION", help="Let it expire after a time such as 12h or 90d.  [default: never]")
def create(
    database: str | None,
    tenant: str | None,
    scopes: str,
    operator: bool,  # noqa: FBT001
    name: str | None,
    expires: str | None,
) -> None:
    """Make a key and print it: once, alone, as the last line of standard output.

    With the first key the service is no longer open: every request needs one.
    """
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    if operator == (tenant is not None):
        raise click.UsageError("Either --tenant or --operator is needed.")
    given = NewKey(
        tenant_id=tenant,
        operator=operator,
        scopes=tuple(part.strip() for part in scopes.split(",") if part.strip()),
        name=name,
        expires_at_us=None if expires is None else _expiry(expires),
    )
    streams.check_output()  # before the key is made: this is the only place where its text is shown
    text = new_text()
    try:
        created = key_created(text, given)
    except DomainError as refusal:
        raise click.UsageError(str(refusal)) from refusal
    try:
        with saying_new_key(settings, "key"), local_ledger.writing(settings) as committer:
            _commit(committer, CreateKey(created, settings.keys_max))
    except LedgerLocked as locked:
        body = msgspec.json.encode(
            {
                "tenant_id": tenant,
                "operator": operator,
                "scopes": created.scopes,
                "name": name,
                "expires_at": created.expires_at,
            }
        )
        headers = {"Content-Type": "application/json"}
        made = ledger_client.call(
            local_ledger.server_beside(settings, locked), "POST", _PATH, answer=_Created, body=body, headers=headers
        )
        _show(made.id, made.key)
    else:
        _show(created.key_id, text)


def _show(key_id: str, text: str) -> None:
    """Print a new key's text.

    Raises:
        OutputFailed: it cannot be written.
    """
    say(f"key {key_id} is made; this is its text, which is shown only now:")
    write(text)
    try:
        streams.check_output()
    except OutputFailed as error:
        raise OutputFailed(
            f"{error} Revoke the key {key_id}, whose text is lost, and make another.", error=error.error
        ) from error


@key.command("list", short_help="List the keys, revoked and expired ones too.")
@database_option
@click.option("--tenant", help="List this tenant's keys alone.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line instead of a table for people.")
def list_(database: str | None, tenant: str | None, as_json: bool) -> None:  # noqa: FBT001
    """List the keys, revoked and expired ones too, in the order of their creation."""
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    local_ledger.existing(settings)
    try:
        with local_ledger.writing(settings) as committer:
            uses = api_key_store.read(committer.ledger)
            found = [
                msgspec.convert(key_document(each, uses.get(each.key_id)), _Key, from_attributes=True)
                for each in committer.keys.keys.values()
            ]
    except LedgerLocked as locked:
        found = _all(local_ledger.server_beside(settings, locked))
    shown = [each for each in found if tenant is None or each.tenant_id == tenant]
    if as_json:
        for each in shown:
            write(msgspec.json.encode(each))
    else:
        for line in _table([_COLUMNS, *map(_cells, shown)]):
            say(line)


@key.command(short_help="Revoke a key, at once and for good.")
@database_option
@click.argument("key_id", metavar="ID")
def revoke(database: str | None, key_id: str) -> None:
    """Make the key ID good for nothing, at once and for good."""
    settings = settings_with(database_path=database)
    local_ledger.existing(settings)
    if not re.fullmatch(r"k_[0-9A-Za-z]{12}", key_id):
        raise click.BadParameter("Expected the id of a key, such as `key list` shows it: k_ and 12 characters.")
    try:
        with local_ledger.writing(settings) as committer:
            try:
                _commit(committer, RevokeKey(key_id, None))
            except DomainError as refusal:
                raise RefusedToStart(f"{key_id}: {refusal}") from refusal
    except LedgerLocked as locked:
        ledger_client.call(
            local_ledger.server_beside(settings, locked),
            "DELETE",
            f"{_PATH}/{key_id}",
            answer=ledger_client.Answered,
            about=f"{key_id}: ",
        )
    say(f"key {key_id} is revoked")


def _expiry(duration: str) -> int:
    match = _is_duration(duration)
    if match is None:
        raise click.BadParameter("Expected a number of hours or days, such as 12h or 90d.", param_hint="--expires")
    return now_us() + int(match[1]) * _S_PER_UNIT[match[2]] * 1_000_000


def _commit(committer: Committer, command: KeyCommand) -> None:
    (outcome,) = committer.commit(
        [Submission(tenant_id=SYSTEM_TENANT, session_id=KEYS_SESSION, actor=LOCAL.actor, command=command)]
    )
    if isinstance(outcome, DomainError):
        raise outcome


def _all(address: Address) -> list[_Key]:
    found: list[_Key] = []
    cursor = ""
    while True:
        page = ledger_client.call(address, "GET", f"{_PATH}?limit={PAGE}{cursor}", answer=_Page)
        found += page.data
        if page.next_cursor is None:
            return found
        cursor = f"&cursor={page.next_cursor}"


def _cells(found: _Key) -> tuple[str, ...]:
    if found.revoked_at is not None:
        state = f"revoked {found.revoked_at}"
    elif found.expires_at is not None and found.expires_at <= format_us(now_us()):
        state = f"expired {found.expires_at}"
    else:
        state = "active" if found.expires_at is None else f"until {found.expires_at}"
    whose = found.tenant_id or "(operator)"
    return found.id, whose, ",".join(found.scopes), state, found.last_used_at or "never", found.name or ""


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table for people: two blanks between its columns, which are as wide as they have to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
