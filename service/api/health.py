"""`/health/live`, `/health/ready` and `/metrics`."""

import msgspec
from litestar import get

from service import metrics
from service.api import openapi
from service.api.answer import Answer
from service.api.call import Call
from service.database import Connection
from service.errors import Overloaded


@get("/health/live", operation_id="live", operation_class=openapi.LIVE, tags=("Operation",))
async def live(request: Call) -> Answer:  # noqa: ARG001
    """Whether the process answers."""
    return Answer(b'{"status":"ok"}')


@get("/health/ready", operation_id="ready", operation_class=openapi.READY, tags=("Operation",))
async def ready(request: Call) -> Answer:
    """Whether the writer lives, the views have caught up, and a row can be read."""
    services = request.services
    checks = {"writer": "ok" if services.writer.alive else "stopped"}
    try:
        lag = await services.readers.run(_lag)
        checks["read"] = "ok"
        checks["views"] = "ok" if lag == 0 or services.writer.queue_length else f"{lag} events behind"
    except Overloaded as error:
        checks["read"] = str(error)
        checks["views"] = "unknown"
    good = all(state == "ok" for state in checks.values())
    body = {"status": "ok" if good else "unavailable", "checks": checks}
    return Answer(msgspec.json.encode(body), status=200 if good else 503)


def _lag(views: Connection, ledger_db: Connection) -> int:
    # The ledger first: the views' snapshot begins with their first query, so what is committed in between does
    # not look like a lag.
    head = ledger_db.execute("SELECT coalesce(max(position), 0) FROM events").get
    reached = views.execute("SELECT position FROM views").get
    return max(0, int(head) - int(reached))


@get("/metrics", operation_id="metrics", operation_class=openapi.METRICS, tags=("Operation",))
async def show_metrics(request: Call) -> Answer:
    """Counters and gauges in the Prometheus text format."""
    return Answer(metrics.render(request.services.registry), content_type=metrics.CONTENT_TYPE)
