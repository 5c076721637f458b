"""One request, as handlers see it: its caller's `Tenant`, its conditions, its body."""

import asyncio
import re
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote_to_bytes

import msgspec
from litestar.connection import Request

from service.access import Caller
from service.api.problems import of_validation
from service.commands import ANY_VERSION
from service.errors import DomainError, InvalidRequest, TooLarge
from service.events import SYSTEM_TENANT
from service.idempotency import IdempotencyKey, fingerprint
from service.ids import ID_RULE, is_id, is_idempotency_key
from service.jsontext import check_characters, check_depth, explain_malformed
from service.reach import Reach
from service.settings import Settings
from service.tenant import Tenant
from service.tenant_audit import TenantAudit
from service.tenant_keys import TenantKeys

if TYPE_CHECKING:
    from service.api.edge import EdgedLitestar
    from service.api.state import Services

T = TypeVar("T")

DEFAULT_TENANT = "default"

_JSON_TYPES = ("application/json",)
_PATCH_TYPES = ("application/json", "application/merge-patch+json")

# Litestar's conversion takes `null` for "not given" and 1e1 for ten.
_NUMBERS = ("messages", "as_of_version", "limit", "after", "before")
_is_number = re.compile(r"[0-9]{1,16}").fullmatch
_one_number = re.compile(rb"([a-z_]+)=[0-9]{1,16}").fullmatch

_IF_MATCH = re.compile(r'"(0|[1-9][0-9]{0,17})"')
_IF_NONE_MATCH = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|$)')


class UnsupportedMediaType(DomainError):
    """The body is not said to be JSON."""

    name = "unsupported-media-type"

    def __init__(self) -> None:
        super().__init__("The Content-Type of a body has to be application/json, without Content-Encoding.")


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
            raise InvalidRequest(f"A tenant is {ID_RULE}.", field="X-Tenant-Id")
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

    async def _read(self) -> bytes:
        """The whole body; as `Request.body`, at a quarter of its cost for a body in one piece.

        Raises:
            TooLarge: it has more than `body_bytes_max` bytes.
            RequestTimeout: it took longer than `body_timeout_ms`.
            Overloaded: too much of other bodies is in memory.
            InvalidRequest: the client went away before its end.
        """
        services = self.services
        limit, bodies = services.settings.body_bytes_max, services.bodies
        length = self._fields.get(b"content-length")
        if length is not None and not length.isdigit():
            # Once more, though the same: hyper lets it pass.
            raise InvalidRequest("Expected one number.", field="Content-Length")
        if length is not None and int(length) > limit:
            raise TooLarge("request body", limit_bytes=limit)
        pieces: list[bytes] = []
        size = 0
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        bodies.begin(task)
        try:
            while True:
                message = await self.receive()
                if message["type"] != "http.request":
                    raise InvalidRequest("The connection ended before the body.")
                piece = message["body"]
                if piece:
                    pieces.append(piece)
                    size += len(piece)
                    bodies.hold(len(piece))
                    if size > limit:
                        raise TooLarge("request body", limit_bytes=limit)
                if not message.get("more_body", False):
                    break
        except asyncio.CancelledError:
            bodies.refuse_late(task)
            raise
        finally:
            bodies.end(task, size)
        if length is None and size:
            services.doors.limits.charge(self.caller, size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def if_match(self) -> int | None:
        """The version that `If-Match` expects, `ANY_VERSION` for `*`, None without the header.

        Raises:
            InvalidRequest: it is neither `*` nor one strong entity tag that a version can be.
        """
        value = self.header(b"if-match")
        if value is None:
            return None
        if value.strip() == "*":
            return ANY_VERSION
        match = _IF_MATCH.fullmatch(value.strip())
        if match is None:
            raise InvalidRequest('Expected * or a version in double quotes, such as "3".', field="If-Match")
        return int(match[1])

    def has_condition(self) -> bool:
        """Whether there is an `If-None-Match`, so that the version alone may be the answer."""
        return b"if-none-match" in self._fields

    def has_version(self, version: int) -> bool:
        """Whether `If-None-Match` says that the client has *version* already (weak comparison, RFC 9110 13.1.2)."""
        value = self.header(b"if-none-match")
        if value is None:
            return False
        return value.strip() == "*" or str(version) in _IF_NONE_MATCH.findall(value)

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
        query = self.scope["query_string"].decode("latin-1")
        path = self.scope["path"] + ("?" + query if query else "")
        return IdempotencyKey(value, fingerprint(self.scope["method"], path, body))

    async def json_body(self) -> bytes:
        """The body, known to be UTF-8 and within the limits, but not yet to be JSON.

        Raises:
            UnsupportedMediaType: it is not declared as JSON.
            TooLarge, InvalidRequest: it breaks a limit.
        """
        body = await self.json_text()
        check_depth(body, depth_max=self.settings.json_depth_max)
        return body

    async def json_text(self) -> bytes:
        """The same, for a caller who sees to it that it does not nest too deeply.

        Raises:
            UnsupportedMediaType: it is not declared as JSON.
            TooLarge, InvalidRequest: it breaks a limit.
        """
        body = await self._read()
        if not body and self.header(b"content-type") is None:
            return b"{}"
        kind = (self.header(b"content-type") or "").partition(";")[0].strip().lower()
        if kind not in (_PATCH_TYPES if self.scope["method"] == "PATCH" else _JSON_TYPES):
            raise UnsupportedMediaType
        if (self.header(b"content-encoding") or "identity").strip().lower() != "identity":
            raise UnsupportedMediaType
        check_characters(body)
        return body

    def refuse_unknown_query(self, *known: str) -> None:
        """Refuse query parameters that the operation does not have: a misspelt filter must not go unnoticed.

        Raises:
            InvalidRequest: there is one, or one came twice.
        """
        query = self.scope["query_string"]
        if not query:
            return
        one = _one_number(query)
        if one is not None and (name := one[1].decode()) in known and name in _NUMBERS:
            return  # nearly all; the other way takes a tenth of the whole request
        if not _is_text(unquote_to_bytes(query)):
            raise InvalidRequest("The query is not UTF-8, or holds the character NUL.")
        seen = set()
        for name, value in self.query_params.multi_items():
            if name not in known:
                raise InvalidRequest("There is no such query parameter.", field=name)
            if name in seen:
                raise InvalidRequest("The query parameter came twice.", field=name)
            seen.add(name)
            if name in _NUMBERS and not _is_number(value):
                raise InvalidRequest("Expected a whole number.", field=name)
            if name == "archived" and value not in ("true", "false"):
                raise InvalidRequest("Expected true or false.", field=name)
            if name == "type" and value.lower() == "null":
                raise InvalidRequest("There is no such type.", field=name)


async def admit(request: Call) -> None:
    """What Litestar calls before each handler: see `doors.py`."""
    await request.services.doors.admit(request)


def _is_text(query: bytes) -> bool:
    try:
        return "\0" not in query.decode()
    except UnicodeDecodeError:
        return False


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes, *, where: str = "$") -> T:
    """Decode *body*, which stands at *where* in the request.

    Raises:
        InvalidRequest: it is not JSON, or not of the decoder's type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise of_validation(error, where=where) from None
    except msgspec.DecodeError as error:
        raise explain_malformed(body, error) from None
    except RecursionError:
        raise InvalidRequest("Arrays and objects nest too deeply.") from None


def check_message_size(text: bytes, settings: Settings) -> None:
    """Refuse one message that is too long.

    Raises:
        TooLarge: its JSON has more than `message_bytes_max` bytes.
    """
    if len(text) > settings.message_bytes_max:
        raise TooLarge("message", limit_bytes=settings.message_bytes_max)
