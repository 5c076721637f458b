"""Serving: granian in this process, and a stop that answers what was accepted before the files are closed.

In this process, because a supervisor with a worker process is two things to kill: after a SIGKILL of the first the
second would go on holding the ledger and the port.
"""

import asyncio
import errno
import ipaddress
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvloop
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server
from prometheus_client import CollectorRegistry, start_http_server

from service.api.edge import EdgedLitestar
from service.app import create_app
from service.errors import RefusedToStart
from service.garbage import calm_garbage_collector
from service.location import Address, Location, note_address
from service.settings import Settings
from service.tls import own_certificate

log = structlog.get_logger("chatledger")

LISTEN_PAUSE_S = 0.005

HEAD_BYTES_MAX = 64 * 1024
"""About the longest head of a request, for hyper reads in steps; beyond it 431. Also what a connection holds of a body
that nobody has read yet."""
BACKLOG = 1024
"""The most connections that the system holds until they are taken."""
FILES_RESERVED = 256
"""Files that are no connections: databases, logs, what a rebuild makes."""


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
    address, port = _claim_address(settings)
    app = create_app(settings)
    logging.getLogger("_granian").setLevel(logging.ERROR)  # no warning at each start; errors still show
    # A ledger that is not there has no keys: refused before it is made.
    _check_exposure(settings, address, is_open=not settings.jwks and not _has_ledger(settings))
    async with app.lifespan():
        services = app.services
        _check_exposure(settings, address, is_open=services.doors.is_open)
        app.open_to_all = lambda: services.doors.is_open
        url = f"{app.scheme}://{_joined(address, port)}"
        noted = Address(url, services.doors.local_credential, own_certificate(settings))

        def announced() -> None:
            note_address(Location.of(settings), noted)
            announce(url)

        with _metrics_port(settings, address, services.registry):
            calm_garbage_collector()
            await _until_stopped(_server(app, settings, address, port), settings, url, announced)
    log.info("stopped")


async def _until_stopped(server: Server, settings: Settings, url: str, announced: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    serving = asyncio.ensure_future(server.serve())
    stopping = asyncio.ensure_future(_interrupted(server))
    listening = asyncio.ensure_future(_wait_until_listening(server.bind_addr, server.bind_port))
    listening.add_done_callback(lambda done: None if done.cancelled() else announced())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    stopping.cancel()
    log.info("stopping")
    done, _ = await asyncio.wait({serving}, timeout=settings.shutdown_timeout_ms / 1000)
    if not done:
        log.warning("requests were still under way", waited_ms=settings.shutdown_timeout_ms)
    elif serving.exception() is not None or not server.interrupt_signal:
        raise RefusedToStart(f"The server could not listen on {url}.") from serving.exception()


def _server(app: EdgedLitestar, settings: Settings, address: str, port: int) -> Server:
    tls = bool(settings.tls_certificate)
    return Server(
        app,
        address=address,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        # Of connections, idle ones too: with granian's own 128 so many that say nothing lock everybody else out.
        backpressure=_room_for_connections(settings.connections_max),
        backlog=BACKLOG,
        # Also how long a connection may be idle between two requests.
        http1_settings=HTTP1Settings(header_read_timeout=settings.header_timeout_ms, max_buffer_size=HEAD_BYTES_MAX),
        ssl_cert=Path(settings.tls_certificate) if tls else None,
        ssl_key=Path(settings.tls_key) if tls else None,
        ssl_protocol_min=SSLProtocols.tls12,
    )


def _room_for_connections(wanted: int) -> int:
    """How many connections there may be: *wanted*, if the system lets this process have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + FILES_RESERVED
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        log.warning("few files", connections=max(1, soft - FILES_RESERVED), wanted=wanted)
    return max(1, min(wanted, soft - FILES_RESERVED))


@contextmanager
def _metrics_port(settings: Settings, address: str, registry: CollectorRegistry) -> Iterator[None]:
    """Serve /metrics on its own port too, if there is to be one."""
    if not settings.metrics_port:
        yield
        return
    try:
        server, thread = start_http_server(
            settings.metrics_port,
            address,
            registry,
            certfile=settings.tls_certificate or None,
            keyfile=settings.tls_key or None,
        )
    except OSError as error:
        raise RefusedToStart(f"Port {settings.metrics_port} of {settings.host} is {_what(error)}.") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _interrupted(server: Server) -> None:
    await server.main_loop_interrupt.wait()  # type: ignore[misc]  # an asyncio.Event here, typed as threading's


async def _wait_until_listening(address: str, port: int) -> None:
    """Wait until connections are taken: granian says so by itself only a moment before."""
    while True:
        try:
            _, connection = await asyncio.open_connection(address, port)
        except OSError:
            await asyncio.sleep(LISTEN_PAUSE_S)
            continue
        connection.close()
        return


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _has_ledger(settings: Settings) -> bool:
    return Path(Location.of(settings).ledger).is_file()


def _check_exposure(settings: Settings, address: str, *, is_open: bool) -> None:
    """Refuse to serve strangers without keys.

    Raises:
        RefusedToStart: the address can be reached from elsewhere, and nobody would need a credential.
    """
    if is_open and not ipaddress.ip_address(address).is_loopback:
        raise RefusedToStart(
            f"{settings.host} is not a loopback address, and without API keys the service is open to whoever "
            f"reaches it. Make a key first (chatledger key create --operator), or serve on 127.0.0.1."
        )


def _claim_address(settings: Settings) -> tuple[str, int]:
    """The address and port to serve on, after making sure that they are ours to take.

    Granian listens with SO_REUSEPORT, so a second server on the same port would get half of the first one's
    requests, and nobody would be told.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RefusedToStart(f"The host {settings.host!r} cannot be resolved.") from error
    # IPv4 first: `localhost` is both, and most clients try 127.0.0.1.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise RefusedToStart(f"Port {settings.port} of {settings.host} is {_what(error)}.") from error
        return str(address[0]), int(probe.getsockname()[1])


def _what(error: OSError) -> str:
    return "in use" if error.errno == errno.EADDRINUSE else "not to be had"
