"""What is done to every request, whatever route it takes, if any: request id, headers, log line, counters."""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from litestar import Litestar

from chatledger.domain.ids import is_request_id, new_request_id
from chatledger.http import origins
from chatledger.http.body_reader import READ
from chatledger.http.problems import problem
from chatledger.http.services import Services
from chatledger.observability.metrics import HttpMetrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar.types import LifeSpanReceive, LifeSpanSend, Message, Receive, Scope, Send
    from litestar.types.asgi_types import LifeSpanScope

log = structlog.get_logger("chatledger.http")

_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"})
_NO_METHOD = "NONE"
_NO_PATH = "/no-such-path"
_REQUEST_ID = b"x-request-id"
_NO_STORE = (b"cache-control", b"no-store")
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
"""For what is no page: nothing in an answer is to be run or shown, whatever a browser takes it for."""
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Of what a page embeds without asking (an image, a script). What CORS allows asks, and is not held against this.
    (b"cross-origin-resource-policy", b"same-origin"),
)
_ONLY_TLS = (b"strict-transport-security", b"max-age=31536000")


class EdgedLitestar(Litestar):
    """Litestar with our edge around its routing: middleware would not see a path that no route has."""

    http_metrics: HttpMetrics
    services: Services
    log_requests: bool = True
    cors_origins: tuple[str, ...] = ()
    open_to_all: Callable[[], bool] | None = None
    """Whether nobody needs a credential now. Set by the real server: in this process any Host is good."""
    scheme: str = "http"
    _always: tuple[tuple[bytes, bytes], ...] = _ALWAYS

    def use_tls(self) -> None:
        """Say to browsers that they are to come by TLS only (RFC 6797)."""
        self.scheme = "https"
        self._always = (*_ALWAYS, _ONLY_TLS)

    async def __call__(
        self,
        scope: "Scope | LifeSpanScope",
        receive: "Receive | LifeSpanReceive",
        send: "Send | LifeSpanSend",
    ) -> None:
        """Serve one request, or the lifespan."""
        kind: str = scope["type"]
        if kind == "http":
            await self._serve(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        started_s = time.perf_counter()
        request_id, has_body = _look_at(scope["headers"])
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        method = scope["method"]
        head, options = method == "HEAD", method == "OPTIONS"
        if head:
            # RFC 9110 section 9.3.2: HEAD is GET without the content. Routes only have to know GET.
            scope["method"] = "GET"
        elif options and not self._is_preflight(scope["headers"]):
            # Litestar's own answer names only the methods of a path's first handler; its 405 names all.
            scope["method"] = _NO_METHOD
        if b"%2f" in (scope.get("raw_path") or b"").lower():
            # An encoded slash is part of an id, and no id has one. Routing would take it for a separator.
            scope["path"] = _NO_PATH
        status = 0

        async def send_edged(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if options and status == HTTPStatus.METHOD_NOT_ALLOWED:
                    status = message["status"] = HTTPStatus.NO_CONTENT
                    message["headers"] = [pair for pair in message["headers"] if pair[0] == b"allow"]
                message["headers"] = self._complete(scope, message["headers"], request_id)
            elif (head or status == HTTPStatus.NO_CONTENT) and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        refusal = self._refusal(scope) if self.open_to_all is not None and self.open_to_all() else None
        try:
            if refusal is None:
                await super().__call__(scope, receive, send_edged)
            else:
                state["problem"] = "forbidden"
                await problem("forbidden", refusal, request_id=request_id)(scope, receive, send_edged)
        finally:
            self.services.bodies.release(state)
        self._record(scope, method, status, time.perf_counter() - started_s)
        if has_body and READ not in state:
            await self.services.bodies.drop(state, receive)

    def _complete(
        self, scope: Any, given: "Iterable[tuple[bytes, bytes]]", request_id: str
    ) -> list[tuple[bytes, bytes]]:
        """An answer's headers, with those that all answers have."""
        headers = [*given, *self._always, (_REQUEST_ID, request_id.encode())]
        names = {name for name, _ in given}
        if b"cache-control" not in names:
            headers.append(_NO_STORE)
        if b"content-security-policy" not in names:
            headers.append(_POLICY)
        allowance = scope["state"].get("allowance")
        if allowance is not None:
            headers += allowance.headers()
        return headers

    def _is_preflight(self, headers: Any) -> bool:
        """Whether a browser asks for a page of an allowed origin what it may send; Litestar answers that."""
        if not self.cors_origins:
            return False
        found = dict(headers)
        origin = found.get(b"origin", b"").decode("latin-1")
        return b"access-control-request-method" in found and origin in self.cors_origins

    def _refusal(self, scope: Any) -> str | None:
        """Why a request is refused while nobody needs a credential."""
        headers = scope["headers"]
        return origins.refusal(
            [value.decode("latin-1") for name, value in headers if name == b"host"],
            [value.decode("latin-1") for name, value in headers if name == b"origin"],
            scheme=self.scheme,
            allowed=self.cors_origins,
        )

    def _record(self, scope: Any, given_method: str, status: int, seconds: float) -> None:
        route = scope.get("path_template") or "-"
        method = given_method if given_method in _METHODS else "other"  # anybody can make up methods
        state = scope["state"]
        try:
            self.http_metrics.observe(method, route, status, seconds)
            if "problem" in state:
                self.http_metrics.count_problem(state["problem"])
        except Exception:  # the request is answered, and its connection has others to come
            log.exception("request not counted")
        if self.log_requests:
            log.info(
                "request",
                request_id=state["request_id"],
                tenant=state.get("tenant_id"),
                key=state.get("credential"),
                method=method,
                route=route,
                status=status,
                ms=round(seconds * 1000, 3),
            )


def _look_at(headers: Any) -> tuple[str, bool]:
    """The request's id, the client's if it is one, and whether a body follows."""
    given, has_body = None, False
    for name, value in headers:
        if name == _REQUEST_ID:
            given = value.decode("latin-1") if given is None else given
        elif name == b"content-length":
            has_body = has_body or value != b"0"
        elif name == b"transfer-encoding":
            has_body = True
    return given if given is not None and is_request_id(given) else new_request_id(), has_body
