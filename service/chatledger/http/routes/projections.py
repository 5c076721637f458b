"""`/v1/admin/projections`: how far the read models have come, and building them anew while serving."""

import msgspec
from litestar import delete, get, post

from chatledger.domain.access import Scope
from chatledger.http.openapi import operations
from chatledger.http.request import Call
from chatledger.http.response import Answer
from chatledger.storage.connection import Connection
from chatledger.threads import in_thread
from chatledger.views.rebuilder import RebuildProgress


class ProjectionState(msgspec.Struct, frozen=True):
    """One projection, as an operator sees it."""

    name: str
    version: int
    position: int
    lag_events: int


class ProjectionsState(msgspec.Struct, frozen=True):
    """All of them. `generation` is the number of the live views' file."""

    generation: int
    data: list[ProjectionState]
    rebuild: RebuildProgress | None


@get(
    "/v1/admin/projections",
    operation_id="showProjections",
    summary="Show the projections",
    operation_class=operations.SHOW_PROJECTIONS,
    access=Scope.OPERATOR,
    tags=("Administration",),
)
async def show_projections(request: Call) -> Answer:
    """Show which position each projection has reached, and the progress of a running rebuild."""
    request.refuse_unknown_query()
    return Answer(await _state(request))


@post(
    "/v1/admin/projections/rebuild",
    operation_id="rebuildProjections",
    summary="Start a rebuild",
    operation_class=operations.REBUILD_PROJECTIONS,
    access=Scope.OPERATOR,
    tags=("Administration",),
)
async def rebuild_projections(request: Call) -> Answer:
    """Start rebuilding the views from the ledger. The live views are used until the new ones are complete."""
    request.refuse_unknown_query()
    request.services.writer.rebuild()
    return Answer(await _state(request), status=202)


@delete(
    "/v1/admin/projections/rebuild",
    operation_id="cancelRebuild",
    summary="Cancel a rebuild",
    status_code=200,  # Litestar takes no 204 from a handler that returns a value; the answer has its own
    operation_class=operations.CANCEL_REBUILD,
    access=Scope.OPERATOR,
    tags=("Administration",),
)
async def cancel_rebuild(request: Call) -> Answer:
    """Cancel the running rebuild, if there is one. The live views do not change."""
    request.refuse_unknown_query()
    await in_thread(request.services.writer.rebuilder.cancel)
    return Answer(b"", status=204)


async def _state(request: Call) -> bytes:
    services = request.services
    # Before the positions and in this order: a rebuild that is over by then has swapped its generation in, if ever.
    rebuild = services.writer.rebuilder.progress
    generation = services.readers.generation
    position, lag = await services.readers.run(reached_and_lag)
    state = ProjectionsState(
        generation=generation,
        data=[
            ProjectionState(name=each.name, version=each.version, position=position, lag_events=lag)
            for each in services.views.projections
        ],
        rebuild=rebuild,
    )
    return msgspec.json.encode(state)


def reached_and_lag(views: Connection, ledger_db: Connection) -> tuple[int, int]:
    """The position of the views, and how many events they are behind the ledger."""
    # The ledger first: the views' snapshot begins with their first query, so what is committed in between does
    # not look like a lag.
    head = int(ledger_db.execute("SELECT coalesce(max(position), 0) FROM events").get)
    reached = int(views.execute("SELECT position FROM views").get)
    return reached, max(0, head - reached)
