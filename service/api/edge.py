"""What is done to every request, whatever route it takes, if any: request id, headers, log line, counters."""

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from litestar import Litestar

from service.api.state import Services
from service.ids import is_request_id, new_id
from service.metrics import HttpMetrics

if TYPE_CHECKING:
    from litestar.types import LifeSpanReceive, LifeSpanSend, Message, Receive, Scope, Send
    from litestar.types.asgi_types import LifeSpanScope

log = structlog.get_logger("chatledger.http")

_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"})
_NO_METHOD = "NONE"
_NO_PATH = "/no-such-path"
_REQUEST_ID = b"x-request-id"
_NO_STORE = (b"cache-control", b"no-store")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")


class EdgedLitestar(Litestar):
    """Litestar with our edge around its routing: middleware would not see a path that no route has."""

    http_metrics: HttpMetrics
    services: Services
    log_requests: bool = True

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
        request_id = _request_id(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        method = scope["method"]
        head, options = method == "HEAD", method == "OPTIONS"
        if head:
            # RFC 9110 section 9.3.2: HEAD is GET without the content. Routes only have to know GET.
            scope["method"] = "GET"
        elif options:
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
                headers = [*message["headers"], _NO_SNIFF, (_REQUEST_ID, request_id.encode())]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
                message["headers"] = headers
            elif (head or status == HTTPStatus.NO_CONTENT) and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        await super().__call__(scope, receive, send_edged)
        self._record(scope, method, status, time.perf_counter() - started_s)

    def _record(self, scope: Any, given_method: str, status: int, seconds: float) -> None:
        route = scope.get("path_template") or "-"
        method = given_method if given_method in _METHODS else "other"  # anybody can make up methods
        self.http_metrics.observe(method, route, status, seconds)
        if self.log_requests:
            log.info(
                "request",
                request_id=scope["state"]["request_id"],
                tenant=scope["state"].get("tenant_id"),
                method=method,
                route=route,
                status=status,
                ms=round(seconds * 1000, 3),
            )


def _request_id(headers: Any) -> str:
    for name, value in headers:
        if name == _REQUEST_ID:
            given = value.decode("latin-1")
            if is_request_id(given):
                return str(given)
            break
    return new_id()
