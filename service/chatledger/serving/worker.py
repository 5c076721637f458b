"""One of several processes that serve a ledger, until its supervisor tells it to stop or is gone."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys

import structlog
import uvloop
from granian.server.embed import Server

from chatledger.console import streams
from chatledger.errors import Overloaded, RefusedToStart, ServiceFailed
from chatledger.http.middleware import EdgedLitestar
from chatledger.observability import logs, metrics
from chatledger.serving.app import create_app
from chatledger.serving.listener import (
    check_lived,
    refusals_named,
    server_of,
    stop_with,
    until_stopped,
    wait_until_listening_here,
)
from chatledger.serving.process import set_up, tune_gc
from chatledger.serving.signals import hold_signals, note_signals
from chatledger.workers.protocol import Ask, Channel, Orders, Ready, Refused, Report, Scrape, Scraped, Stop
from chatledger.workers.shared_state import Board
from chatledger.workers.worker_context import Shared

log = structlog.get_logger("chatledger")

SCRAPE_TIMEOUT_S = 5.0
ORPHAN_GRACE_MS = 1000
"""How long a worker without a supervisor waits for answers that are under way: the next start waits for it."""


def main() -> None:
    """Work for the supervisor at the other end of the socket that the command line names."""
    streams.prepare()
    hold_signals()
    set_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor says what is to be done
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_work(socket.socket(fileno=int(sys.argv[1])))))


async def _work(end: socket.socket) -> int:
    note_signals()
    channel = await Channel.over(end)
    orders = await channel.orders()
    if not isinstance(orders, Orders):
        return 1
    logs.set_up(orders.settings.log_level, form=orders.settings.log_format, worker=orders.number)
    logs.catch_all()
    logging.getLogger("_granian").setLevel(logging.ERROR)
    try:
        with refusals_named():
            await _Worker(channel, orders).serve()
    except (RefusedToStart, ServiceFailed) as refusal:
        channel.send(Refused(str(refusal)))
        await channel.flush()
        return 1
    return 0


class _Worker:
    """Serves, and listens to its supervisor."""

    def __init__(self, channel: Channel, orders: Orders) -> None:
        self._channel = channel
        self._orders = orders
        self._scrapes: list[asyncio.Future[str]] = []
        self._grace_ms = orders.settings.shutdown_timeout_ms

    async def serve(self) -> None:
        orders, settings = self._orders, self._orders.settings
        app = create_app(settings, shared=Shared(Board(orders.board), orders.local_credential, self._scrape))
        async with app.lifespan():
            services = app.services
            app.open_to_all = lambda: services.doors.is_open
            server = server_of(app, settings, orders.address, orders.port)
            stop_with(services.writer, server)
            obeying = asyncio.ensure_future(self._obey(app, server))
            tune_gc()
            await until_stopped(
                server,
                grace_ms=lambda: self._grace_ms,
                listening=wait_until_listening_here(orders.port),
                announced=lambda: self._channel.send(Ready()),
            )
            obeying.cancel()
            await asyncio.wait({obeying})
        log.info("stopped")
        if not obeying.cancelled() and (failure := obeying.exception()) is not None:
            raise failure
        check_lived(services.writer)

    async def _obey(self, app: EdgedLitestar, server: Server) -> None:
        """Do what the supervisor says, until it says stop or is gone.

        Whatever goes wrong is an end too: a worker that does not listen would outlive its supervisor.
        """
        try:
            await self._listen(app)
        finally:
            server.stop()  # type: ignore[no-untyped-call]

    async def _listen(self, app: EdgedLitestar) -> None:
        while True:
            said = await self._channel.orders()
            if said is None:
                log.warning("supervisor gone")
                self._grace_ms = min(self._grace_ms, ORPHAN_GRACE_MS)
            if said is None or isinstance(said, Stop):
                return
            if isinstance(said, Ask):
                self._channel.send(Report(said.number, metrics.report(app.services.registry)))
            elif isinstance(said, Scraped) and self._scrapes:
                waiting = self._scrapes.pop(0)
                if not waiting.done():
                    waiting.set_result(said.text)

    async def _scrape(self) -> str:
        """The metrics of all workers; answers come in the order of the questions."""
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._scrapes.append(waiting)
        self._channel.send(Scrape())
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(waiting, SCRAPE_TIMEOUT_S)
        raise Overloaded("The metrics of the other workers cannot be had.")
