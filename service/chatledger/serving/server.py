"""Serving: granian in this process, and a stop that answers what was accepted before the files are closed.

In this process, because a supervisor with a worker process is two things to kill: after a SIGKILL of the first the
second would go on holding the ledger and the port. Where several workers are wanted, there is one all the same, and
they see to it that they end with it (docs/decisions/0018-workers.md).
"""

import asyncio
import logging

import structlog
import uvloop

from chatledger.serving.app import create_app
from chatledger.serving.listener import (
    Announce,
    announce_at,
    check_exposure,
    check_lived,
    claim_address,
    has_ledger,
    joined,
    metrics_port,
    refusals_named,
    server_of,
    stop_with,
    until_stopped,
    wait_until_listening,
)
from chatledger.serving.process import tune_gc
from chatledger.serving.signals import note_signals
from chatledger.serving.supervisor import supervise
from chatledger.serving.tls import own_certificate
from chatledger.settings import Settings
from chatledger.storage.paths import Address, Location

log = structlog.get_logger("chatledger")


def serve(settings: Settings, *, announce: Announce, new_signing_key: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; *announce* is called once requests are accepted.

    With *new_signing_key* the ledger, whose key is lost, gets another one.

    Raises:
        RefusedToStart: the address, the settings or the ledger are not as they must be.
        ServiceFailed: it has ended by itself.
    """
    if settings.workers > 1:
        supervise(settings, announce=announce, new_signing_key=new_signing_key)
        return
    # uvloop serves half again as many requests a second (docs/decisions/0006-granian-in-process.md).
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, refusals_named():
        runner.run(_serve(settings, announce, new_signing_key=new_signing_key))


async def _serve(settings: Settings, announce: Announce, *, new_signing_key: bool) -> None:
    note_signals()
    address, port = claim_address(settings)
    app = create_app(settings, new_signing_key=new_signing_key)
    logging.getLogger("_granian").setLevel(logging.ERROR)  # no warning at each start; errors still show
    # A ledger that is not there has no keys: refused before it is made.
    is_there = has_ledger(settings)
    check_exposure(settings, address, is_open=not settings.jwks and not is_there)
    async with app.lifespan():
        services = app.services
        check_exposure(settings, address, is_open=services.doors.is_open)
        app.open_to_all = lambda: services.doors.is_open
        url = f"{app.scheme}://{joined(address, port)}"
        noted = Address(url, services.doors.local_credential, own_certificate(settings))

        def announced() -> None:
            events = services.views.position if is_there else None
            announce_at(Location.of(settings), noted, lambda url: announce(url, events))

        with metrics_port(settings, address, services.registry):
            tune_gc()
            server = server_of(app, settings, address, port)
            stop_with(services.writer, server)
            listening = wait_until_listening(address, port)
            grace_ms = settings.shutdown_timeout_ms
            await until_stopped(server, grace_ms=lambda: grace_ms, listening=listening, announced=announced)
    log.info("stopped")
    check_lived(services.writer)
