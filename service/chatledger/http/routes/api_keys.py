"""`/v1/admin/keys`: make, list and revoke API keys."""

import msgspec
from litestar import Controller, delete, get, post
from litestar.params import FromPath

from chatledger.application.api_keys import NewKey
from chatledger.domain.access import Scope
from chatledger.domain.api_keys import Key
from chatledger.domain.documents import KeyDocument, key_document
from chatledger.domain.timestamps import parse_us
from chatledger.errors import InvalidRequest
from chatledger.http.openapi import operations
from chatledger.http.request import Call, decode
from chatledger.http.response import Answer
from chatledger.http.routes.sessions import Cursor, Limit


class KeyInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/admin/keys`. Only operators name a tenant, or make operators' keys."""

    scopes: tuple[str, ...] = ()
    name: str | None = None
    expires_at: str | None = None
    tenant_id: str | None = None
    operator: bool = False


class KeyPage(msgspec.Struct, frozen=True):
    """A page of keys, in the order of their creation."""

    data: list[KeyDocument]
    next_cursor: str | None


_key = msgspec.json.Decoder(KeyInput)


def _document(request: Call, key: Key, text: str | None = None, used_at_us: int = 0) -> KeyDocument:
    used_here_us = request.services.doors.used_at_us.get(key.key_id, 0)
    return key_document(key, max(used_here_us, used_at_us) or None, text)


class KeysController(Controller):
    """API keys."""

    path = "/v1/admin/keys"
    tags = ("Administration",)

    @post(
        operation_id="createKey", summary="Create an API key", operation_class=operations.CREATE_KEY, access=Scope.ADMIN
    )
    async def create(self, request: Call) -> Answer:
        """Create an API key. Its text is returned in this response only."""
        request.refuse_unknown_query()
        body = await request.json_body()
        given = decode(_key, body)
        key, text = await request.keys().create(
            NewKey(
                tenant_id=given.tenant_id,
                operator=given.operator,
                scopes=given.scopes,
                name=given.name,
                expires_at_us=None if given.expires_at is None else _parse(given.expires_at),
            ),
            size_bytes=len(body),
            idempotency_key=request.idempotency_key(body),
        )
        headers = [(b"idempotency-replayed", b"true")] if text is None else []
        return Answer(msgspec.json.encode(_document(request, key, text)), status=201, headers=headers)

    @get(operation_id="listKeys", summary="List API keys", operation_class=operations.LIST_KEYS, access=Scope.ADMIN)
    async def page(self, request: Call, limit: Limit = 50, cursor: Cursor = None) -> Answer:
        """List API keys in the order of their creation, including revoked ones."""
        request.refuse_unknown_query("limit", "cursor")
        keys, cursors = request.keys(), request.services.cursors
        bound_to = ("keys", keys.tenant_id)
        found = keys.page(after=0 if cursor is None else cursors.read(cursor, *bound_to), limit=limit + 1)
        shown = found[:limit]
        elsewhere_us = await keys.uses([key.key_id for _, key in shown])
        page = KeyPage(
            data=[_document(request, key, used_at_us=elsewhere_us.get(key.key_id, 0)) for _, key in shown],
            next_cursor=cursors.write(shown[-1][0], *bound_to) if len(found) > limit else None,
        )
        return Answer(msgspec.json.encode(page))

    @delete(
        "/{key_id:str}",
        operation_id="revokeKey",
        summary="Revoke an API key",
        status_code=200,  # Litestar takes no 204 from a handler that returns a value; the answer has its own
        operation_class=operations.REVOKE_KEY,
        access=Scope.ADMIN,
    )
    async def revoke(self, request: Call, key_id: FromPath[str]) -> Answer:
        """Revoke an API key, permanently and with immediate effect."""
        request.refuse_unknown_query()
        await request.keys().revoke(key_id)
        return Answer(b"", status=204)


def _parse(text: str) -> int:
    try:
        return parse_us(text)
    except ValueError as error:
        raise InvalidRequest(f"Not a time: {error}.", field="$.expires_at") from None
