"""Answers: bytes that are ready, with the headers that the contract asks for."""

from typing import TYPE_CHECKING

from litestar.response.base import ASGIResponse

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

_JSON = (b"content-type", b"application/json")


class Answer(ASGIResponse):
    """A finished answer. Litestar's own Response would encode, copy headers and look for cookies: 10 µs each."""

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        version: int | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        content_type: bytes | None = None,
    ) -> None:
        """Answer *body*; `version` is the session's and becomes the ETag."""
        self.status_code = status
        self.body = body
        self._raw_headers = list(headers or ())
        if body:
            self._raw_headers.append(_JSON if content_type is None else (b"content-type", content_type))
        if status not in (204, 304):
            self._raw_headers.append((b"content-length", b"%d" % len(body)))
        if version is not None:
            self._raw_headers.append((b"etag", b'"%d"' % version))

    def to_asgi_response(self, *_: object, **__: object) -> "Answer":
        """What Litestar asks the answers of exception handlers for."""
        return self

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:  # noqa: ARG002
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def not_modified(version: int) -> Answer:
    """304: the reader has this version already (RFC 9110 section 15.4.5)."""
    return Answer(b"", status=304, version=version)
