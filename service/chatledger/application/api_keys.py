"""The API keys that one caller may manage: its tenant's, or, for an operator, anybody's (rule 8)."""

from collections.abc import Mapping, Sequence

import msgspec

from chatledger.domain.access import TENANT_SCOPES, Caller
from chatledger.domain.api_keys import Key, digest_of, id_of, new_text
from chatledger.domain.commands import CreateKey, KeyCommand, RevokeKey
from chatledger.domain.events import KEYS_SESSION, SYSTEM_TENANT, KeyCreated
from chatledger.domain.ids import ID_RULE, is_id
from chatledger.domain.timestamps import format_us, now_us
from chatledger.domain.validation import expected_one_of
from chatledger.errors import Forbidden, InvalidRequest, NotFound
from chatledger.ledger import api_key_store, event_store
from chatledger.ledger.idempotency_store import IdempotencyKey
from chatledger.reading.readers import Readers
from chatledger.settings import Settings
from chatledger.storage.connection import Connection
from chatledger.writing.command_group import Committed, Replayed, Submission
from chatledger.writing.writer import Writer

NAME_CHARACTERS_MAX = 200


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a key to be made: a tenant's with scopes, or an operator's, which has neither."""

    tenant_id: str | None = None
    operator: bool = False
    scopes: tuple[str, ...] = ()
    name: str | None = None
    expires_at_us: int | None = None


def key_created(text: str, given: NewKey) -> KeyCreated:
    """The event that makes the key *text* as *given*.

    Raises:
        InvalidRequest: what is said of it makes no sense.
    """
    tenant_id, scopes, name = given.tenant_id, given.scopes, given.name
    if given.operator == (tenant_id is not None):
        raise InvalidRequest("A key belongs either to a tenant or to an operator.", field="$.operator")
    allowed = () if tenant_id is None else TENANT_SCOPES
    if tenant_id is not None and not is_id(tenant_id):
        raise InvalidRequest(f"A tenant id has to be {ID_RULE}.", field="$.tenant_id")
    if tenant_id is not None and not scopes:
        raise InvalidRequest(f"scopes: expected at least one of {', '.join(allowed)}.", field="$.scopes")
    if scopes and not allowed:
        raise InvalidRequest("scopes: an operator's key has none.", field="$.scopes")
    for scope in scopes:
        if scope not in allowed:
            raise InvalidRequest(f"scopes: {expected_one_of(allowed, scope)}", field="$.scopes")
    if name is not None and (not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable()):
        raise InvalidRequest(f"Expected 1 to {NAME_CHARACTERS_MAX} printable characters.", field="$.name")
    if given.expires_at_us is not None and given.expires_at_us <= now_us():
        raise InvalidRequest("Must be in the future.", field="$.expires_at")
    return KeyCreated(
        key_id=id_of(text),
        sha256=digest_of(text).hex(),
        scopes=tuple(scope.value for scope in TENANT_SCOPES if scope in scopes),
        tenant_id=tenant_id,
        name=name,
        expires_at=None if given.expires_at_us is None else format_us(given.expires_at_us),
    )


class TenantKeys:
    """One caller's keys: made for each request. An operator, who has no tenant, reaches all."""

    def __init__(
        self, caller: Caller, request_id: str, *, settings: Settings, writer: Writer, readers: Readers
    ) -> None:
        self.tenant_id = caller.tenant_id
        self._caller = caller
        self._request_id = request_id
        self._settings = settings
        self._writer = writer
        self._readers = readers

    async def create(
        self, given: NewKey, *, size_bytes: int, idempotency_key: IdempotencyKey | None
    ) -> tuple[Key, str | None]:
        """Make a key: the key, and its text. Under an Idempotency-Key that was used before there is no text any more.

        Raises:
            Forbidden: the key would be another tenant's, or an operator's.
            InvalidRequest: it makes no sense, or there are too many.
        """
        tenant_id = given.tenant_id if given.tenant_id is not None or given.operator else self.tenant_id
        if self.tenant_id is not None and tenant_id != self.tenant_id:
            raise Forbidden("Only an operator can create keys for other tenants or for operators.")
        text = new_text()
        created = key_created(text, msgspec.structs.replace(given, tenant_id=tenant_id))
        outcome = await self._submit(CreateKey(created, self._settings.keys_max), size_bytes, idempotency_key)
        if isinstance(outcome, Committed):
            return self._writer.keys.keys[created.key_id], text
        answer = outcome.answer

        def query(_views: Connection, ledger_db: Connection) -> str:
            (record,) = event_store.read_stream(ledger_db, answer.stream, after_version=answer.version - 1, limit=1)
            if not isinstance(record.event.data, KeyCreated):
                raise NotFound("key")
            return record.event.data.key_id

        return self._writer.keys.keys[await self._readers.run(query)], None

    def page(self, *, after: int, limit: int) -> list[tuple[int, Key]]:
        """Up to *limit* of the keys behind number *after*, in the order of their creation, with their numbers."""
        return self._writer.keys.page(self.tenant_id, after=after, limit=limit)

    async def uses(self, key_ids: Sequence[str]) -> Mapping[str, int]:
        """When the keys were last used as far as other workers have written it down, by id."""
        if self._settings.workers == 1:
            return {}
        return await self._readers.run(lambda _views, ledger_db: api_key_store.read(ledger_db, key_ids))

    async def revoke(self, key_id: str) -> None:
        """Revoke a key, with immediate effect; one that is revoked already stays so.

        Raises:
            NotFound: the caller has no such key.
        """
        await self._submit(RevokeKey(key_id, self.tenant_id), 0, None)

    async def _submit(
        self, command: KeyCommand, size_bytes: int, idempotency_key: IdempotencyKey | None
    ) -> Committed | Replayed:
        own = None
        if idempotency_key is not None:
            # All of these are in one tenant, `$system`; no key that a client can send holds a line feed.
            own = IdempotencyKey(f"{self.tenant_id or ''}\n{idempotency_key.key}", idempotency_key.fingerprint)
        submission = Submission(
            tenant_id=SYSTEM_TENANT,
            session_id=KEYS_SESSION,
            actor=self._caller.actor,
            command=command,
            request_id=self._request_id,
            idempotency_key=own,
        )
        return await self._writer.submit(submission, size_bytes=size_bytes)
