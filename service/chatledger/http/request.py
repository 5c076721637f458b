"""One request, as handlers see it: its caller's `Tenant`, its conditions, its body."""

from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from litestar.connection import Request

from chatledger.application.api_keys import TenantKeys
from chatledger.application.audit import TenantAudit
from chatledger.application.context import Reach
from chatledger.application.conversations import Tenant
from chatledger.domain.access import Caller
from chatledger.domain.events import SYSTEM_TENANT
from chatledger.domain.ids import ID_RULE, is_id, is_idempotency_key
from chatledger.domain.json_text import check_characters, check_depth, explain_malformed
from chatledger.domain.validation import refusal, shown
from chatledger.errors import DomainError, InvalidRequest, TooLarge
from chatledger.http import conditions, query
from chatledger.http.body_reader import declared_length
from chatledger.ledger.idempotency_store import IdempotencyKey, fingerprint
from chatledger.settings import Settings

if TYPE_CHECKING:
    from chatledger.http.middleware import EdgedLitestar
    from chatledger.http.services import Services

T = TypeVar("T")

DEFAULT_TENANT = "default"

_JSON_TYPES = ("application/json",)
_PATCH_TYPES = ("application/json", "application/merge-patch+json")

_SMALL_BODY_TIMES = 8
"""A body that is not about messages may have so many times `session_bytes_max`: with escapes and white space, more
than what is said in it."""


class UnsupportedMediaType(DomainError):
    """The body is not said to be JSON, or is encoded."""

    name = "unsupported-media-type"


class Call(Request[Any, Any, Any]):
    """A request of the API."""

    _joined: dict[bytes, bytes] | None = None  # no cached_property: until Python 3.12 that takes a lock

    @property
    def services(self) -> "Services":
        """What the application is made of."""
        # Not from `app.state`, which takes a lock each time.
        return cast("EdgedLitestar", self.scope["litestar_app"]).services

    @property
    def settings(self) -> Settings:
        """The process's settings."""
        return self.services.settings

    def tenant(self) -> Tenant:
        """The conversations that this request's caller may reach."""
        services = self.services
        return Tenant(
            self._reach(),
            settings=services.settings,
            writer=services.writer,
            readers=services.readers,
            forks=services.forks,
        )

    def audit(self) -> TenantAudit:
        """The history that this request's caller may see."""
        services = self.services
        reach = self._reach(may_be_system=self.caller.may_see_system)
        return TenantAudit(reach, settings=services.settings, readers=services.readers)

    def keys(self) -> TenantKeys:
        """The keys that this request's caller may manage."""
        services, request_id = self.services, self.scope["state"]["request_id"]
        return TenantKeys(
            self.caller, request_id, settings=services.settings, writer=services.writer, readers=services.readers
        )

    @property
    def caller(self) -> Caller:
        """Whoever sent this, as `doors.py` has let it in."""
        caller: Caller = self.scope["state"]["caller"]
        return caller

    def _reach(self, *, may_be_system: bool = False) -> Reach:
        """The caller in its tenant: its credential's, or, where that has none, the one that `X-Tenant-Id` names.

        `$system` can only be looked at: whoever erased its stream would have opened the doors.

        Raises:
            InvalidRequest: the header is no id.
        """
        caller = self.caller
        named = self.header(b"x-tenant-id")
        if named is not None and not is_id(named) and not (named == SYSTEM_TENANT and may_be_system):
            raise InvalidRequest(f"A tenant id has to be {ID_RULE}.", field="X-Tenant-Id")
        tenant_id = caller.tenant_id
        if tenant_id is None:
            tenant_id = DEFAULT_TENANT if named is None else named
        state = self.scope["state"]
        state["tenant_id"] = tenant_id
        return Reach(caller, tenant_id, state["request_id"])

    def header(self, name: bytes) -> str | None:
        """A header's value; where it came more than once, all of them as RFC 9110 section 5.3 joins them."""
        value = self._fields.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def _fields(self) -> dict[bytes, bytes]:
        fields = self._joined
        if fields is None:
            fields = self._joined = {}
            for name, value in self.scope["headers"]:
                fields[name] = fields[name] + b", " + value if name in fields else value
        return fields

    async def _read(self, limit_bytes: int) -> bytes:
        services = self.services
        length = declared_length(self._fields.get(b"content-length"), limit_bytes=limit_bytes)
        body = await services.bodies.read(self.scope["state"], self.receive, limit_bytes=limit_bytes)
        if length is None and body:
            services.doors.limits.charge(self.caller, len(body))
        return body

    def if_match(self) -> int | None:
        """The version that `If-Match` expects: see `conditions.expected_version`."""
        return conditions.expected_version(self.header(b"if-match"))

    def has_condition(self) -> bool:
        """Whether there is an `If-None-Match`, so that the version alone may be the answer."""
        return b"if-none-match" in self._fields

    def has_version(self, version: int) -> bool:
        """Whether `If-None-Match` says that the client has *version* already."""
        value = self.header(b"if-none-match")
        return value is not None and conditions.has_version(value, version)

    def idempotency_key(self, body: bytes) -> IdempotencyKey | None:
        """The request's Idempotency-Key with its fingerprint, or None.

        Raises:
            InvalidRequest: it is not 1 to 255 visible ASCII characters.
        """
        value = self.header(b"idempotency-key")
        if value is None:
            return None
        if not is_idempotency_key(value):
            raise InvalidRequest("Expected 1 to 255 visible ASCII characters.", field="Idempotency-Key")
        asked = self.scope["query_string"].decode("latin-1")
        path = self.scope["path"] + ("?" + asked if asked else "")
        return IdempotencyKey(value, fingerprint(self.scope["method"], path, body))

    async def json_body(self) -> bytes:
        """The body of what is not about messages, known to be UTF-8 and within its limits, but not yet to be JSON.

        Raises:
            UnsupportedMediaType: it is not declared as JSON.
            TooLarge, InvalidRequest: it breaks a limit.
        """
        body = await self._json_text(small_body_bytes_max(self.settings))
        check_depth(body, depth_max=self.settings.json_depth_max)
        return body

    async def json_text(self) -> bytes:
        """The body of what may have messages, for a caller who sees to it that it does not nest too deeply.

        Raises:
            UnsupportedMediaType: it is not declared as JSON.
            TooLarge, InvalidRequest: it breaks a limit.
        """
        return await self._json_text(self.settings.body_bytes_max)

    async def _json_text(self, limit_bytes: int) -> bytes:
        body = await self._read(limit_bytes)
        if not body and self.header(b"content-type") is None:
            return b"{}"
        kind = (self.header(b"content-type") or "").partition(";")[0].strip().lower()
        kinds = _PATCH_TYPES if self.scope["method"] == "PATCH" else _JSON_TYPES
        if kind not in kinds:
            got = shown(kind) if kind else "none"
            raise UnsupportedMediaType(f"Expected the Content-Type {' or '.join(kinds)}; got {got}.")
        if (self.header(b"content-encoding") or "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("A Content-Encoding is not supported: send the body as it is.")
        check_characters(body)
        return body

    def refuse_unknown_query(self, *known: str) -> None:
        """Refuse query parameters that the operation does not have: see `query.check_parameters`."""
        asked = self.scope["query_string"]
        if not asked or query.is_one_number(asked, known):
            return  # nearly all; the other way takes a tenth of the whole request
        query.check_parameters(self.query_params.multi_items(), known, query.choices_of(self.scope["route_handler"]))


async def admit(request: Call) -> None:
    """What Litestar calls before each handler, and before it converts parameters: see `doors.py`."""
    await request.services.doors.admit(request)
    asked = request.scope["query_string"]
    if asked:
        query.check_query(asked)


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes, *, where: str = "$") -> T:
    """Decode *body*, which stands at *where* in the request.

    Raises:
        InvalidRequest: it is not JSON, or not of the decoder's type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise refusal(error, decoder.type, where=where) from None
    except msgspec.DecodeError as error:
        raise explain_malformed(body, error) from None
    except RecursionError:
        raise InvalidRequest("Arrays and objects nest too deeply.") from None


def small_body_bytes_max(settings: Settings) -> int:
    """The largest body of what is not about messages."""
    return min(_SMALL_BODY_TIMES * settings.session_bytes_max, settings.body_bytes_max)


def check_message_size(size_bytes: int, settings: Settings) -> None:
    """Refuse one message that is too long.

    Raises:
        TooLarge: its JSON has more than `message_bytes_max` bytes.
    """
    if size_bytes > settings.message_bytes_max:
        raise TooLarge("message", limit_bytes=settings.message_bytes_max)
