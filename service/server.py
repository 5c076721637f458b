"""Serving: granian in this process, and a stop that answers what was accepted before the files are closed.

In this process, because a supervisor with a worker process is two things to kill: after a SIGKILL of the first the
second would go on holding the ledger and the port.
"""

import asyncio
import errno
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable

import structlog
import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from service.app import create_app
from service.errors import RefusedToStart
from service.settings import Settings

log = structlog.get_logger("chatledger")


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; *announce* is called with the URL once requests are accepted.

    Raises:
        RefusedToStart: the address, the settings or the ledger are not as they must be.
    """
    # uvloop serves half again as many requests a second (docs/decisions/0006-granian-in-process.md).

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(settings, announce))
        except BaseExceptionGroup as group:
            # Litestar's task group wraps what its lifespan raises; a refusal has to arrive as itself.
            refusal, _others = group.split(RefusedToStart)
            if refusal is None:
                raise
            raise _first(refusal) from None


def _first(group: BaseExceptionGroup[RefusedToStart]) -> RefusedToStart:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def _serve(settings: Settings, announce: Callable[[str], None]) -> None:
    port = _claim_address(settings)
    app = create_app(settings)
    logging.getLogger("_granian").setLevel(logging.ERROR)  # its start-up warning; errors still show
    async with app.lifespan():
        server = Server(
            app,
            address=settings.host,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            log_enabled=False,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        server.on_startup(lambda: announce(f"http://{host}:{port}"))
        serving = asyncio.ensure_future(server.serve())
        await server.main_loop_interrupt.wait()
        log.info("stopping")
        done, _ = await asyncio.wait([serving], timeout=settings.shutdown_timeout_ms / 1000)
        if not done:
            log.warning("requests were still under way", waited_ms=settings.shutdown_timeout_ms)
        else:
            serving.result()
    log.info("stopped")


def _claim_address(settings: Settings) -> int:
    """The port to serve on, after making sure that it is ours to take.

    Granian listens with SO_REUSEPORT, so a second server on the same port would get half of the first one's
    requests, and nobody would be told.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RefusedToStart(f"The host {settings.host!r} cannot be resolved.") from error
    for family, _, _, _, address in found:
        if not ipaddress.ip_address(address[0]).is_loopback:
            raise RefusedToStart(
                f"{settings.host} is not a loopback address, and without API keys the service is open to whoever "
                f"reaches it. Serve on 127.0.0.1."
            )
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                what = "in use" if error.errno == errno.EADDRINUSE else "not to be had"
                raise RefusedToStart(f"Port {settings.port} of {settings.host} is {what}.") from error
            port = int(probe.getsockname()[1])
    return port
