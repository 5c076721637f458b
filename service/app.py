"""The composition root: settings become a running application."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import structlog
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig

from projections.views import Views
from service import __version__, key_uses, ledger, metrics
from service.api import admin, audit, erasures, evidence, health, page, problems
from service.api.call import Call, admit
from service.api.doors import Doors, check_declared
from service.api.edge import EdgedLitestar
from service.api.keys import KeysController
from service.api.messages import MessagesController
from service.api.sessions import SessionsController
from service.api.state import Cursors, Services
from service.checkpointer import Checkpointer
from service.committer import hold
from service.errors import DomainError
from service.location import Location
from service.log import set_up
from service.metrics import HttpMetrics, Reading
from service.readers import Readers
from service.rebuilder import Rebuilder
from service.settings import Settings, load_settings
from service.signing import signer_of
from service.transparency import TransparencyLog
from service.writer import Writer

log = structlog.get_logger("chatledger")


def create_app(settings: Settings | None = None) -> EdgedLitestar:
    """An ASGI application on the ledger that *settings* name (by default those of the environment).

    The ledger is opened when the application starts and closed when it stops.

    Raises:
        SettingsError: a setting is wrong.
    """
    chosen = load_settings() if settings is None else settings
    if not structlog.is_configured():
        # structlog's own default prints local variables beside a traceback, message content among them.
        set_up(chosen.log_level)
    http = HttpMetrics()
    app = EdgedLitestar(
        route_handlers=[
            SessionsController,
            MessagesController,
            audit.list_session_events,
            audit.list_events,
            erasures.erase_session,
            evidence.show_proof,
            evidence.show_head,
            evidence.show_checkpoint,
            evidence.show_tile,
            admin.show_projections,
            admin.rebuild_projections,
            admin.cancel_rebuild,
            KeysController,
            health.live,
            health.ready,
            health.show_metrics,
        ],
        lifespan=[_lifespan(chosen, http)],  # type: ignore[list-item]  # it gets this very class
        request_class=Call,
        before_request=admit,  # type: ignore[arg-type]  # it gets this very class
        request_max_body_size=chosen.body_bytes_max,
        openapi_config=OpenAPIConfig(
            title="chatledger",
            version=__version__,
            description="The system of record for chat.",
            use_handler_docstrings=True,
            openapi_controller=page.SchemaController,  # type: ignore[arg-type]  # any controller serves
        ),
        exception_handlers={
            DomainError: problems.on_domain_error,  # type: ignore[dict-item]
            HTTPException: problems.on_http_exception,  # type: ignore[dict-item]
            Exception: problems.on_fault,  # type: ignore[dict-item]
        },
        logging_config=None,
    )
    check_declared(app)
    app.http_metrics = http
    app.log_requests = chosen.log_level in ("debug", "info")
    return app


def _lifespan(settings: Settings, http: HttpMetrics) -> Callable[[EdgedLitestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: EdgedLitestar) -> AsyncIterator[None]:
        location = Location.of(settings)
        with hold(location, settings) as committer:
            views = committer.views
            reason = views.open(committer.ledger)
            if reason is not None and views.position:
                log.warning("views rebuilt", reason=reason, position=views.position)
            rebuilder = Rebuilder(location, settings, views)
            writer = Writer(committer, settings, Checkpointer(location, settings, views), rebuilder)
            readers = Readers(location, settings, views, on_damage=writer.repair)
            ledger_id = ledger.identity(committer.ledger)
            signer = signer_of(location, settings, ledger_id)
            doors = Doors(settings, writer, used_at_us=key_uses.read(committer.ledger))
            readings = _readings(writer, views, location)
            app.services = Services(
                settings=settings,
                writer=writer,
                readers=readers,
                views=views,
                log=TransparencyLog(readers, signer, ledger_id),
                cursors=Cursors(ledger_id.encode()),
                doors=doors,
                registry=metrics.registry_of(http, readings),
            )
            writer.start()
            try:
                yield
            finally:
                await doors.close()
                readers.close()
                await writer.close()

    return lifespan


def _readings(writer: Writer, views: Views, location: Location) -> Callable[[], Iterable[Reading]]:
    def readings() -> Iterable[Reading]:
        stats = writer.stats
        yield Reading("events_total", "Events appended since the start.", stats.events, counts=True)
        yield Reading("commands_total", "Commands decided since the start.", stats.commands, counts=True)
        yield Reading("groups_total", "Ledger transactions since the start.", stats.groups, counts=True)
        yield Reading("write_failures_total", "Groups that failed.", stats.failures, counts=True)
        yield Reading("commit_seconds_total", "Time spent on groups.", stats.commit_us / 1e6, counts=True)
        yield Reading("queue_commands", "Commands that wait for the writer.", writer.queue_length)
        yield Reading("position", "The ledger's newest position that readers see.", views.position)
        if not location.memory:
            yield Reading("ledger_bytes", "Size of the ledger's file.", _size(location.ledger))
            yield Reading("ledger_wal_bytes", "Size of its write-ahead log.", _size(location.ledger + "-wal"))
            yield Reading("views_bytes", "Size of the views' file.", _size(views.name))

    return readings


def _size(name: str) -> int:
    path = Path(name)
    return path.stat().st_size if path.exists() else 0
