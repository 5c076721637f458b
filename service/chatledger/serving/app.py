"""The composition root: settings become a running application."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import structlog
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from prometheus_client import CollectorRegistry

from chatledger import __version__
from chatledger.application.forks import Forks
from chatledger.application.transparency_log import TransparencyLog
from chatledger.errors import DomainError
from chatledger.http import problems
from chatledger.http.access_hook import Doors, check_declared
from chatledger.http.body_reader import Bodies
from chatledger.http.middleware import EdgedLitestar
from chatledger.http.openapi import operations
from chatledger.http.origins import parse_origins
from chatledger.http.request import Call, admit
from chatledger.http.routes import api_page, erasures, events, health, projections, proofs
from chatledger.http.routes.api_keys import KeysController
from chatledger.http.routes.messages import MessagesController
from chatledger.http.routes.sessions import SessionsController
from chatledger.http.services import Cursors, Services
from chatledger.ledger import api_key_store, event_store
from chatledger.observability import metrics
from chatledger.observability.logs import dropped, set_up
from chatledger.observability.metrics import LOG_LINES_DROPPED, HttpMetrics, Reading
from chatledger.proofs.signed_heads import check_start, signer_of
from chatledger.reading.api_key_cache import SharedKeys
from chatledger.reading.readers import Readers
from chatledger.serving.tls import check_files
from chatledger.settings import Settings, load_settings
from chatledger.storage.paths import Location
from chatledger.views.live_views import Views
from chatledger.views.rebuilder import Rebuilder
from chatledger.workers.shared_state import Board
from chatledger.workers.worker_context import Shared
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.committer import Committer, hold, join
from chatledger.writing.writer import Writer

log = structlog.get_logger("chatledger")

EXPOSED = (
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "X-Request-Id",
)
"""The headers of answers that a page of an allowed origin may read (Fetch, section 4.9)."""


def create_app(
    settings: Settings | None = None, *, shared: Shared | None = None, new_signing_key: bool = False
) -> EdgedLitestar:
    """An ASGI application on the ledger that *settings* name (by default those of the environment).

    The ledger is opened when the application starts and closed when it stops. With *shared* it is that of one of
    several workers, whose supervisor holds the ledger. With *new_signing_key* a ledger whose signing key is lost gets
    another one.

    Raises:
        SettingsError: a setting is wrong.
    """
    chosen = load_settings() if settings is None else settings
    if not structlog.is_configured():
        # structlog's own default prints local variables beside a traceback, message content among them.
        set_up(chosen.log_level, form=chosen.log_format)
    check_files(chosen)
    origins = parse_origins(chosen.cors_origins)
    app = EdgedLitestar(
        route_handlers=[
            SessionsController,
            MessagesController,
            events.list_session_events,
            events.list_events,
            erasures.erase_session,
            erasures.show_erasure,
            proofs.show_proof,
            proofs.show_head,
            proofs.show_checkpoint,
            proofs.show_tile,
            projections.show_projections,
            projections.rebuild_projections,
            projections.cancel_rebuild,
            KeysController,
            health.live,
            health.ready,
            health.show_metrics,
            api_page.show_start,
        ],
        lifespan=[_lifespan(chosen, shared, new_signing_key=new_signing_key)],  # type: ignore[list-item]  # it gets this very class
        request_class=Call,
        before_request=admit,  # type: ignore[arg-type]  # it gets this very class
        request_max_body_size=chosen.body_bytes_max,
        openapi_config=OpenAPIConfig(
            title="chatledger",
            version=__version__,
            description=operations.DESCRIPTION,
            use_handler_docstrings=True,
            openapi_controller=api_page.SchemaController,  # type: ignore[arg-type]  # any controller serves
        ),
        exception_handlers={
            DomainError: problems.on_domain_error,  # type: ignore[dict-item]
            HTTPException: problems.on_http_exception,  # type: ignore[dict-item]
            Exception: problems.on_fault,  # type: ignore[dict-item]
        },
        logging_config=None,
        cors_config=CORSConfig(list(origins), expose_headers=list(EXPOSED)) if origins else None,
    )
    check_declared(app)
    app.http_metrics = HttpMetrics()
    app.cors_origins = origins
    if chosen.tls_certificate:
        app.use_tls()
    app.log_requests = chosen.log_level in ("debug", "info")
    return app


def _lifespan(
    settings: Settings, shared: Shared | None, *, new_signing_key: bool
) -> Callable[[EdgedLitestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: EdgedLitestar) -> AsyncIterator[None]:
        location = Location.of(settings)
        with ExitStack() as stack:
            board, keys = None, None
            if shared is None:
                check_start(location, settings, new_key=new_signing_key)
                committer = stack.enter_context(hold(location, settings))
                open_views(committer)
            else:
                board = shared.board
                committer = stack.enter_context(join(location, settings, board))
                keys = SharedKeys(location, settings, board)
            views = committer.views
            rebuilder = Rebuilder(location, settings, views, board)
            checkpointer = Checkpointer(location, settings, views)
            writer = Writer(committer, settings, checkpointer, rebuilder, keys=None if keys is None else keys.current)
            readers = Readers(location, settings, board or views, on_damage=writer.repair)
            ledger_id = event_store.identity(committer.ledger)
            events = event_store.head(committer.ledger).position
            signer = signer_of(location, settings, ledger_id, events=events, new_key=new_signing_key)
            doors = Doors(settings, writer, used_at_us=api_key_store.read(committer.ledger), shared=shared)
            forks = Forks(settings, writer, readers)
            registry = metrics.registry_of(app.http_metrics, _readings(app, location, board or views))
            app.services = Services(
                settings=settings,
                writer=writer,
                readers=readers,
                views=views,
                forks=forks,
                log=TransparencyLog(readers, signer, ledger_id),
                cursors=Cursors(ledger_id.encode()),
                doors=doors,
                bodies=Bodies(settings, writer.budget),
                registry=registry,
                scrape=_scrape(registry, shared),
            )
            writer.start()
            try:
                await forks.finish_all()
                yield
            finally:
                await forks.close()
                await doors.close()
                readers.close()
                if keys is not None:
                    keys.close()
                await writer.close()

    return lifespan


def open_views(committer: Committer) -> None:
    """Open the views that belong to an open ledger, and say why they had to be built anew, if they had."""
    reason = committer.views.open(committer.ledger)
    if reason is not None and committer.views.position:
        log.warning("views rebuilt", reason=reason, position=committer.views.position)


def _scrape(registry: CollectorRegistry, shared: Shared | None) -> Callable[[], Awaitable[bytes]]:
    async def scrape() -> bytes:
        return metrics.render(registry) if shared is None else (await shared.scrape()).encode()

    return scrape


def _readings(app: EdgedLitestar, location: Location, live: Views | Board) -> Callable[[], Iterable[Reading]]:
    def readings() -> Iterable[Reading]:
        services, http = app.services, app.http_metrics
        writer, stats = services.writer, services.writer.stats
        yield Reading("workers", "Processes that serve.", services.settings.workers)
        yield Reading("events_total", "Events appended since the start.", stats.events, counts=True)
        yield Reading("commands_total", "Commands decided since the start.", stats.commands, counts=True)
        yield Reading("groups_total", "Ledger transactions since the start.", stats.groups, counts=True)
        yield Reading("write_failures_total", "Groups that failed.", stats.failures, counts=True)
        yield Reading("group_commands", "Commands a group.", stats.group_commands)
        yield Reading("queue_wait_seconds", "Time that a group's first command waited.", stats.queue_wait_s)
        yield Reading("commit_seconds", "Time of groups, from the first decision to the sync's end.", stats.commit_s)
        yield Reading("queue_commands", "Commands that wait for the writer.", writer.queue_length)
        yield Reading("position", "The ledger's newest position that readers see.", live.position)
        yield Reading("projection_lag_events", "Events that the views lack since a failure.", stats.lag_events)
        yield Reading("queue_reads", "Reads that run or wait for a reader.", services.readers.queue_length)
        yield Reading("bodies_reading", "Request bodies that are on their way.", len(services.bodies))
        yield Reading("bodies_bytes", "Bytes that requests take in memory.", writer.budget.bytes_held)
        yield Reading("rebuild_running", "1 while the views are built anew.", writer.rebuilder.progress is not None)
        yield Reading("problems_total", "Problems answered, by name.", http.problems, counts=True, label="problem")
        refused = services.doors.limits.refused
        yield Reading("rate_limited_total", "Requests beyond a limit.", refused, counts=True, label="reason")
        yield Reading("unscrubbed_erasures", "Erasures whose copies the views' file may have.", writer.unscrubbed)
        yield Reading("scrub_overdue", "Those of them that should have none any more.", writer.scrubs_overdue)
        yield Reading("log_lines_dropped_total", LOG_LINES_DROPPED, dropped(), counts=True)
        yield Reading("wal_held_pages", "Pages of a write-ahead log that a long read holds.", writer.held_pages)
        if not location.memory:
            yield Reading("ledger_bytes", "Size of the ledger's file.", _size(location.ledger))
            yield Reading("ledger_wal_bytes", "Size of its write-ahead log.", _size(location.ledger + "-wal"))
            name = location.views(live.generation)
            yield Reading("views_bytes", "Size of the views' file.", _size(name))
            yield Reading("views_wal_bytes", "Size of its write-ahead log.", _size(name + "-wal"))

    return readings


def _size(name: str) -> int:
    path = Path(name)
    return path.stat().st_size if path.exists() else 0
