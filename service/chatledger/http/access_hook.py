"""The doors: every request shows its credential here before a handler sees it.

A route says with `access=` which scope it needs, or that it is `PUBLIC`; one that says nothing keeps the application
from starting. Who may do what is decided by `access.check`, here and nowhere else.
"""

import hmac
import time
from typing import TYPE_CHECKING, Any, Protocol

from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from chatledger.auth.rate_limits import Limits, SharedLimits
from chatledger.auth.user_tokens import TokenVerifier, looks_like_token
from chatledger.domain.access import LOCAL, OPEN, PUBLIC, Caller, check, new_local_credential
from chatledger.domain.api_keys import PREFIX
from chatledger.domain.timestamps import now_us
from chatledger.errors import Overloaded, Unauthenticated
from chatledger.http.body_reader import LENGTH_DIGITS_MAX
from chatledger.ledger import api_key_store
from chatledger.settings import Settings
from chatledger.workers.worker_context import Shared
from chatledger.writing.writer import Writer

if TYPE_CHECKING:
    from litestar import Litestar


USES_WRITTEN_EVERY_US = 60_000_000
"""How long the last use of a key is only in memory, at most."""
SHARED_USES_WRITTEN_EVERY_US = 1_000_000
"""The same of one of several workers, whose memory the others do not see."""

ACCESS = "access"
"""The name under which a route declares the scope that it needs."""


class Showing(Protocol):
    """A request, as far as it is looked at here."""

    scope: Any

    def header(self, name: bytes) -> str | None:
        """A header's value."""


class Doors:
    """Lets callers in. For the event loop only."""

    def __init__(
        self, settings: Settings, writer: Writer, *, used_at_us: dict[str, int], shared: Shared | None = None
    ) -> None:
        """Make them; *used_at_us* is when each key was last used, by its id. With *shared* they are several workers'.

        Raises:
            SettingsError: the settings of user tokens are wrong.
        """
        self.local_credential = new_local_credential() if shared is None else shared.local_credential
        """What commands beside the server show: it is in a file that only the ledger's owner can read."""
        self.used_at_us = used_at_us
        self.limits = Limits(settings)
        self._uses_written_every_us = USES_WRITTEN_EVERY_US
        if shared is not None:
            self.limits = SharedLimits(settings, shared.board, shared.local_credential)
            self._uses_written_every_us = SHARED_USES_WRITTEN_EVERY_US
        self._tokens = TokenVerifier(settings) if settings.jwks else None
        self._body_bytes_max = settings.body_bytes_max
        self._writer = writer
        self._unwritten: dict[str, int] = {}
        self._write_at_us = 0

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a credential: no key was ever made, and user tokens are not set up.

        Keys that are all revoked or expired do not open the doors again.
        """
        if self._tokens is not None:
            return False
        try:
            return not self._writer.keys.keys
        except Overloaded:  # nobody knows: then it is not
            return False

    async def admit(self, request: Showing) -> None:
        """Let the request in, and note who sends it.

        Raises:
            Unauthenticated: it has no good credential.
            Forbidden: its credential does not allow this.
            RateLimited: its caller has sent too much.
        """
        needed = request.scope["route_handler"].opt[ACCESS]
        if needed is PUBLIC:
            return
        caller = await self._caller(request)
        state = request.scope["state"]
        state["caller"], state["credential"], state["tenant_id"] = caller, caller.credential, caller.tenant_id
        self._limit(request, caller, state)
        check(caller, needed)

    def _limit(self, request: Showing, caller: Caller, state: Any) -> None:
        if self.limits.are_off:
            return
        size = request.header(b"content-length") or ""
        size_bytes = int(size) if size.isdecimal() and len(size) <= LENGTH_DIGITS_MAX else 0
        if size_bytes > self._body_bytes_max:
            size_bytes = 0  # refused, and not stored; what is only declared must not use up a tenant's day
        state["allowance"] = self.limits.admit(caller, size_bytes=size_bytes, now_s=time.monotonic())

    async def _caller(self, request: Showing) -> Caller:
        given = request.header(b"authorization")
        if given is None:
            if self.is_open:
                return OPEN
            raise Unauthenticated("This needs a credential: Authorization: Bearer <key or token>.")
        scheme, _, text = given.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("The authentication scheme has to be Bearer.")
        text = text.strip(" ")
        if text.startswith(PREFIX):
            time_us = now_us()
            caller = self._writer.keys.caller_of(text, now_us=time_us)
            self._note_use(caller.credential, time_us)
            return caller
        if hmac.compare_digest(text.encode(), self.local_credential.encode()):
            return LOCAL
        if self._tokens is not None and looks_like_token(text):
            return await self._tokens.verify(text)
        raise Unauthenticated("The credential is no key" + (" and no token." if self._tokens else "."))

    def _note_use(self, key_id: str, time_us: int) -> None:
        self.used_at_us[key_id] = self._unwritten[key_id] = time_us
        if time_us >= self._write_at_us:
            self.write_uses()
            self._write_at_us = time_us + self._uses_written_every_us

    def write_uses(self) -> None:
        """Have the writer write down when keys were used."""
        unwritten, self._unwritten = self._unwritten, {}
        if unwritten:
            self._writer.put(lambda connection: api_key_store.write(connection, unwritten))

    async def close(self) -> None:
        """Write down what is not yet, and stop fetching the identity provider's keys. Call it before the writer's."""
        self.write_uses()
        if self._tokens is not None:
            await self._tokens.close()


def check_declared(app: "Litestar") -> None:
    """Refuse an application with a route that does not say who may use it.

    Raises:
        ImproperlyConfiguredException: there is one.
    """
    for path, handler in handlers_of(app):
        if ACCESS not in handler.opt:
            raise ImproperlyConfiguredException(f"The route {path} of {handler.handler_name} declares no access.")


def handlers_of(app: "Litestar") -> list[tuple[str, HTTPRouteHandler]]:
    """The paths and handlers of *app*'s routes, but for the answers to OPTIONS that Litestar adds."""
    return [
        (route.path_format, handler)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.http_methods != {"OPTIONS"}
    ]
