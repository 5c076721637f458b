"""`/health/live`, `/health/ready` and `/metrics`."""

import asyncio

import msgspec
from litestar import get

from chatledger.domain.access import PUBLIC, Scope
from chatledger.errors import Overloaded
from chatledger.http.openapi import operations
from chatledger.http.request import Call
from chatledger.http.response import Answer
from chatledger.http.routes.projections import reached_and_lag
from chatledger.http.services import Services
from chatledger.observability import metrics

LOOKS = 5
LOOK_PAUSE_S = 0.01


@get(
    "/health/live",
    operation_id="live",
    summary="Check liveness",
    operation_class=operations.LIVE,
    access=PUBLIC,
    tags=("Operation",),
)
async def live(request: Call) -> Answer:  # noqa: ARG001
    """Report that the process responds."""
    return Answer(b'{"status":"ok"}')


@get(
    "/health/ready",
    operation_id="ready",
    summary="Check readiness",
    operation_class=operations.READY,
    access=PUBLIC,
    tags=("Operation",),
)
async def ready(request: Call) -> Answer:
    """Report whether the writer runs, the views have caught up with the ledger, and a row can be read."""
    services = request.services
    checks = {"writer": "ok" if services.writer.alive else "stopped"}
    try:
        lag = await _lag(services)
        checks["read"] = "ok"
        checks["views"] = "ok" if lag == 0 else f"{lag} events behind"
    except Overloaded as error:
        checks["read"] = str(error)
        checks["views"] = "unknown"
    good = all(state == "ok" for state in checks.values())
    body: dict[str, object] = {"status": "ok" if good else "unavailable", "checks": checks}
    if overdue := services.writer.scrubs_overdue:
        # No reason to send requests elsewhere, but somebody has to look.
        body["warnings"] = [f"{overdue} erasures are not scrubbed in time; the log says why."]
    return Answer(msgspec.json.encode(body), status=200 if good else 503)


async def _lag(services: Services) -> int:
    """How many of the events that the ledger has now the views lack, but for those that are just being applied.

    One read may see a group between its two commits, or views that are swapped for others just then.
    """
    reached, lag = await services.readers.run(reached_and_lag)
    head = reached + lag
    for _ in range(LOOKS):
        if reached >= head or services.writer.queue_length:
            return 0
        await asyncio.sleep(LOOK_PAUSE_S)
        reached, _ = await services.readers.run(reached_and_lag)
    return max(0, head - reached)


@get(
    "/metrics",
    operation_id="metrics",
    summary="Get the metrics",
    operation_class=operations.METRICS,
    access=Scope.OPERATOR,
    tags=("Operation",),
)
async def show_metrics(request: Call) -> Answer:
    """Get counters and gauges in the Prometheus text format."""
    return Answer(await request.services.scrape(), content_type=metrics.CONTENT_TYPE)
