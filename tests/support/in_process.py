"""The application in this process: requests as ASGI calls, whose cost on the event loop's thread is measured."""

import asyncio
import gc
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from chatledger.serving.app import create_app
from chatledger.settings import Settings


@dataclass(frozen=True)
class Asked:
    """An answer, and the processor time that it took the event loop's thread."""

    status: int
    headers: dict[str, str]
    body: bytes
    cpu_s: float


class InProcess:
    """The service on a ledger of its own, without a socket. A context manager for the thread that uses it."""

    def __init__(self, database: Path, **settings: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Use of deprecated attribute 'openapi_controller'")  # Litestar's
            self.app = create_app(Settings(database_path=str(database), log_level="error", **settings))
        self._runner = asyncio.Runner()
        self._ended: asyncio.Event | None = None
        self._lifespan: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._runner.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._stop())
        self._runner.close()

    async def _start(self) -> None:
        started, self._ended = asyncio.Event(), asyncio.Event()
        ended = self._ended

        async def live() -> None:
            async with self.app.lifespan():
                started.set()
                await ended.wait()

        # Entered and left by one task, as its task group wants it.
        self._lifespan = asyncio.create_task(live())
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait({self._lifespan, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if self._lifespan.done():
            waiting.cancel()
            await self._lifespan

    async def _stop(self) -> None:
        assert self._ended is not None
        assert self._lifespan is not None
        self._ended.set()
        await self._lifespan

    def ask(
        self, method: str, target: bytes, *, headers: list[tuple[bytes, bytes]] | None = None, body: bytes = b""
    ) -> Asked:
        """One request, whose *target* is as it stands on the wire, percent-encoded or not."""
        path, _, query = target.partition(b"?")
        given = headers or []
        host = [] if any(name == b"host" for name, _ in given) else [(b"host", b"localhost")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [*host, *given],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        return self._runner.run(self._call(scope, body))

    async def _call(self, scope: dict[str, Any], body: bytes) -> Asked:
        messages: list[Any] = []
        coming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return coming.pop() if coming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)

        gc.disable()  # a collection of the test's own objects is not the request's
        try:
            began_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
            await self.app(scope, receive, send)  # type: ignore[arg-type]  # plain dictionaries
            cpu_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - began_s
        finally:
            gc.enable()
        head, *rest = messages
        return Asked(
            head["status"],
            {name.decode().lower(): value.decode("latin-1") for name, value in head["headers"]},
            b"".join(message.get("body", b"") for message in rest),
            cpu_s,
        )
