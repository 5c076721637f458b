"""The server processes that are measured: `python -m benchmarks.launch chatledger|bare DATABASE LOG_LEVEL`.

Both run in `chatledger.serving.server.serve`, so that granian, uvloop and the garbage collector are set up the same.
"""

import sys
from types import SimpleNamespace
from unittest.mock import patch

import msgspec
from litestar import Litestar, Request, get, post
from litestar.params import FromPath
from prometheus_client import CollectorRegistry

from chatledger.domain.access import PUBLIC
from chatledger.http.response import Answer
from chatledger.observability import logs
from chatledger.serving import app, server
from chatledger.settings import Settings, load_settings

NOTHING = "/bench/nothing"
LEAST = "/bench/least"
KEPT = "/bench/kept"
_OK = b'{"status":"ok"}'
_kept: dict[str, bytes] = {}


async def _read(request: Request) -> bytes:  # type: ignore[type-arg]
    """The body without Litestar's own reading, which would cost the do-nothing handler several µs."""
    pieces = []
    while True:
        message = await request.receive()
        pieces.append(message["body"])  # type: ignore[typeddict-item]  # no request here ends early
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@post(NOTHING, access=PUBLIC, include_in_schema=False)
async def nothing(request: Request) -> dict[str, str]:  # type: ignore[type-arg]
    """Take a body and do nothing, as one writes a handler by Litestar's documentation."""
    await request.body()
    return {"status": "ok"}


@post(LEAST, access=PUBLIC, include_in_schema=False)
async def least(request: Request) -> Answer:  # type: ignore[type-arg]
    """The same in the cheapest way that Litestar has: around its reading of bodies and its responses."""
    await _read(request)
    return Answer(_OK, status=201)


@post(KEPT + "/{name:str}", access=PUBLIC, include_in_schema=False)
async def keep(request: Request, name: FromPath[str]) -> Answer:  # type: ignore[type-arg]
    """Keep the body in memory, for `kept`."""
    _kept[name] = await _read(request)
    return Answer(_OK, status=201)


@get(KEPT + "/{name:str}", access=PUBLIC, include_in_schema=False)
async def kept(name: FromPath[str]) -> Answer:
    """Answer bytes that were kept: what a read would cost if it read nothing."""
    return Answer(_kept[name])


def _chatledger(settings: Settings, **_others: object) -> Litestar:
    """The real application, with our handlers behind the same edge."""
    application = app.create_app(settings)
    for handler in (nothing, least, keep, kept):
        application.register(handler)
    return application


class _Bare(Litestar):
    """With what `chatledger.serving.server` asks the real application for."""

    scheme = "http"
    open_to_all = None
    services = SimpleNamespace(
        doors=SimpleNamespace(is_open=True, local_credential=""),
        registry=CollectorRegistry(auto_describe=False),
        views=SimpleNamespace(position=0),
        writer=SimpleNamespace(gone=False, on_gone=None),
    )


def _bare(settings: Settings, **_others: object) -> Litestar:
    """Litestar by itself: no edge, no log line, no ledger."""
    del settings
    return _Bare([least], openapi_config=None, logging_config=None)


def main() -> None:
    """Serve, and say the URL on standard output."""
    kind, database, log_level = sys.argv[1:]
    given = {**msgspec.structs.asdict(load_settings()), "database_path": database, "log_level": log_level, "port": 0}
    settings = msgspec.convert(given, Settings)
    logs.set_up(settings.log_level)
    with patch.object(server, "create_app", {"chatledger": _chatledger, "bare": _bare}[kind]):
        server.serve(settings, announce=lambda url, _events: print(url, flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
