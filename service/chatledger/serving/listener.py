"""Listening: granian on an address that is ours to take, until somebody stops it."""

import asyncio
import errno
import ipaddress
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import structlog
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server
from prometheus_client import CollectorRegistry, start_http_server

from chatledger.errors import ChatledgerError, RefusedToStart, ServiceFailed
from chatledger.http.middleware import EdgedLitestar
from chatledger.settings import Settings
from chatledger.storage.paths import Address, Location, is_file, note_address
from chatledger.threads import call_in_loop
from chatledger.writing.writer import Writer

log = structlog.get_logger("chatledger")

Announce: TypeAlias = Callable[[str, int | None], None]
"""Told the URL, and how many events the ledger has: None, if this start has made it."""

LISTEN_PAUSE_S = 0.005

HEAD_BYTES_MAX = 64 * 1024
"""About the longest head of a request, for hyper reads in steps; beyond it 431. Also what a connection holds of a body
that nobody has read yet."""
BACKLOG = 1024
"""The most connections that the system holds until they are taken."""
FILES_RESERVED = 256
"""Files that are no connections: databases, logs, what a rebuild makes."""


async def until_stopped(
    server: Server, *, grace_ms: Callable[[], int], listening: Awaitable[None], announced: Callable[[], None]
) -> None:
    """Serve until SIGTERM, SIGINT or `server.stop`; call *announced* once *listening* is done.

    Then answers that are under way have *grace_ms*.

    Raises:
        RefusedToStart: it could not listen.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    serving = asyncio.ensure_future(server.serve())
    stopping = asyncio.ensure_future(_interrupted(server))
    heard = asyncio.ensure_future(listening)
    heard.add_done_callback(lambda done: None if done.cancelled() else announced())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    heard.cancel()
    stopping.cancel()
    log.info("stopping")
    done, _ = await asyncio.wait({serving}, timeout=grace_ms() / 1000)
    if not done:
        log.warning("requests were still under way", waited_ms=grace_ms())
    elif serving.exception() is not None or not server.interrupt_signal:
        place = joined(server.bind_addr, server.bind_port)
        raise RefusedToStart(f"The server could not listen on {place}.") from serving.exception()


def announce_at(location: Location, address: Address, announce: Callable[[str], None]) -> None:
    """Say where the server is: to commands beside it, and to whoever has started it."""
    try:
        note_address(location, address)
    except OSError:  # as on a full disk: commands beside the server do not find it, and it serves all the same
        log.exception("address not noted")
    announce(address.url)


def stop_with(writer: Writer, server: Server) -> None:
    """Have *server* stop when *writer* has ended by itself, so that somebody starts the service again."""
    loop = asyncio.get_running_loop()
    writer.on_gone = lambda: call_in_loop(loop, server.stop)
    if writer.gone:
        server.stop()  # type: ignore[no-untyped-call]


def check_lived(writer: Writer) -> None:
    """Behind the stop: was it one?

    Raises:
        ServiceFailed: *writer* had ended by itself.
    """
    if writer.gone:
        raise ServiceFailed("The writer has failed again and again and has ended; the log above says why.")


async def _interrupted(server: Server) -> None:
    await server.main_loop_interrupt.wait()  # type: ignore[misc]  # an asyncio.Event here, typed as threading's


async def wait_until_listening(address: str, port: int) -> None:
    """Wait until connections are taken: granian says so by itself only a moment before."""
    while True:
        try:
            _, connection = await asyncio.open_connection(address, port)
        except OSError:
            await asyncio.sleep(LISTEN_PAUSE_S)
            continue
        connection.close()
        return


async def wait_until_listening_here(port: int) -> None:
    """Wait until this process takes connections, whoever else listens on the port.

    Descriptors are looked at as they are: a copy of one of SQLite's would drop its locks when it is closed.
    """
    while not any(_listens(int(name), port) for name in os.listdir("/dev/fd")):  # noqa: ASYNC110, PTH208
        await asyncio.sleep(LISTEN_PAUSE_S)


def _listens(descriptor: int, port: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        found = socket.socket(fileno=descriptor)
    except OSError:  # closed meanwhile
        return False
    try:
        if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        return bool(found.getsockname()[1] == port)
    except OSError:
        return False
    finally:
        found.detach()


def server_of(app: EdgedLitestar, settings: Settings, address: str, port: int) -> Server:
    """Granian with *app*, not yet serving."""
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
def metrics_port(settings: Settings, address: str, registry: CollectorRegistry) -> Iterator[None]:
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
    server.handle_error = _on_metrics_error  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _on_metrics_error(*_: object) -> None:
    """As socketserver calls it; its own prints to standard error, and what that raises would end the port's thread."""
    error = sys.exception()
    if not isinstance(error, ConnectionError):  # who scrapes may hang up
        log.warning("metrics not sent", exc_info=error)


@contextmanager
def refusals_named() -> Iterator[None]:
    """Have a refusal arrive as itself: Litestar's task group wraps what its lifespan raises.

    Raises:
        ChatledgerError: instead of the group that has it; or its only exception, whatever that is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        found = list(_leaves(group))
        refusals = [error for error in found if isinstance(error, ChatledgerError)]
        if not refusals and len(found) > 1:
            raise
        first = (refusals or found)[0]
        raise first from first.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def joined(address: str, port: int) -> str:
    """As a URL has them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def has_ledger(settings: Settings) -> bool:
    """Whether the ledger is there already.

    Raises:
        RefusedToStart: something else has its name, or the system does not say.
    """
    return not settings.in_memory and is_file(Location.of(settings).ledger)


def check_exposure(settings: Settings, address: str, *, is_open: bool) -> None:
    """Refuse to serve strangers without keys.

    Raises:
        RefusedToStart: the address can be reached from elsewhere, and nobody would need a credential.
    """
    if is_open and not ipaddress.ip_address(address).is_loopback:
        raise RefusedToStart(
            f"{settings.host} is not a loopback address, and without API keys the service is open to whoever "
            f"reaches it. Make a key first (chatledger key create --operator), or serve on 127.0.0.1."
        )


@contextmanager
def kept_address(settings: Settings) -> Iterator[tuple[str, int]]:
    """The same for several workers, who listen on it side by side: it stays ours while one of them is not there."""
    address, port = claim_address(settings)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            kept.bind((address, port))
        except OSError as error:
            raise RefusedToStart(f"Port {port} of {settings.host} is {_what(error)}.") from error
        yield address, port


def claim_address(settings: Settings) -> tuple[str, int]:
    """The address and port to serve on, after making sure that they are ours to take.

    Granian listens with SO_REUSEPORT, so a second server on the same port would get half of the first one's
    requests, and nobody would be told.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a name that cannot be one
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
