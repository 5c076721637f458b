"""`chatledger key`: API keys made, listed and revoked, here or by the server that has the ledger."""

import re

import click
import msgspec

from service import key_uses, offline, remote
from service.access import LOCAL
from service.clock import format_us, now_us
from service.commands import CreateKey, KeyCommand, RevokeKey
from service.committer import Committer
from service.documents import key_document
from service.errors import DomainError, LedgerLocked
from service.events import KEYS_SESSION, SYSTEM_TENANT
from service.group import Submission
from service.keys import new_text
from service.location import Address
from service.options import Command, check_tenant, database_option, saying_new_key, settings_with
from service.tenant_keys import NewKey, key_created

PAGE = 200
_PATH = "/v1/admin/keys"
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


class _Created(remote.Answered, frozen=True):
    id: str = ""
    key: str = ""


class _Page(remote.Answered, frozen=True):
    data: tuple[_Key, ...] = ()
    next_cursor: str | None = None


@click.group()
def key() -> None:
    """Make, list and revoke API keys.

    Beside a running server it has the server do it.
    """


@key.command(cls=Command)
@database_option
@click.option("--tenant", help="The tenant whose data the key reaches.")
@click.option("--scopes", default="", help="What it allows, separated by commas: read,write,audit,erase,admin.")
@click.option("--operator", is_flag=True, help="A key for whoever runs the service, instead of a tenant's.")
@click.option("--name", help="What it is for, to be found again in the list.")
@click.option("--expires", metavar="DURATION", help="How long it is good for, such as 12h or 90d.  [default: for ever]")
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
    text = new_text()
    try:
        created = key_created(text, given)
    except DomainError as refusal:
        raise click.UsageError(str(refusal)) from refusal
    try:
        with saying_new_key(settings, "key"), offline.writing(settings) as committer:
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
        made = remote.call(
            offline.server_beside(settings, locked), "POST", _PATH, answer=_Created, body=body, headers=headers
        )
        click.echo(f"key {made.id} is made; this is its text, which is shown only now:")
        click.echo(made.key)
        return
    click.echo(f"key {created.key_id} is made; this is its text, which is shown only now:")
    click.echo(text)


@key.command("list", cls=Command)
@database_option
@click.option("--tenant", help="Only this tenant's keys.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, instead of a table for people.")
def list_(database: str | None, tenant: str | None, as_json: bool) -> None:  # noqa: FBT001
    """List the keys, revoked and expired ones too, in the order of their creation."""
    settings = settings_with(database_path=database)
    check_tenant(tenant)
    offline.existing(settings)
    try:
        with offline.writing(settings) as committer:
            uses = key_uses.read(committer.ledger)
            found = [
                msgspec.convert(key_document(each, uses.get(each.key_id)), _Key, from_attributes=True)
                for each in committer.keys.keys.values()
            ]
    except LedgerLocked as locked:
        found = _all(offline.server_beside(settings, locked))
    for each in found:
        if tenant is not None and each.tenant_id != tenant:
            continue
        click.echo(msgspec.json.encode(each) if as_json else _line(each))


@key.command(cls=Command)
@database_option
@click.argument("key_id", metavar="ID")
def revoke(database: str | None, key_id: str) -> None:
    """Make the key ID good for nothing, at once and for good."""
    settings = settings_with(database_path=database)
    offline.existing(settings)
    if not re.fullmatch(r"k_[0-9A-Za-z]{12}", key_id):
        raise click.BadParameter("Expected the id of a key, such as `key list` shows it: k_ and 12 characters.")
    try:
        with offline.writing(settings) as committer:
            _commit(committer, RevokeKey(key_id, None))
    except LedgerLocked as locked:
        remote.call(
            offline.server_beside(settings, locked),
            "DELETE",
            f"{_PATH}/{key_id}",
            answer=remote.Answered,
            about=f"{key_id}: ",
        )
    click.echo(f"key {key_id} is revoked")


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
        page = remote.call(address, "GET", f"{_PATH}?limit={PAGE}{cursor}", answer=_Page)
        found += page.data
        if page.next_cursor is None:
            return found
        cursor = f"&cursor={page.next_cursor}"


def _line(found: _Key) -> str:
    if found.revoked_at is not None:
        state = f"revoked {found.revoked_at}"
    elif found.expires_at is not None and found.expires_at <= format_us(now_us()):
        state = f"expired {found.expires_at}"
    else:
        state = "active" if found.expires_at is None else f"until {found.expires_at}"
    whose = found.tenant_id or "(operator)"
    used = f"last used {found.last_used_at}" if found.last_used_at else "never used"
    return f"{found.id}  {whose}  {','.join(found.scopes)}  {state}  {used}  {found.name or ''}".rstrip()
