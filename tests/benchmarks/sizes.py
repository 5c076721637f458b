"""What an event takes on the disk."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from service import database
from service.location import Location
from service.settings import Settings

SECTION = "Sizes"


def run(bench: Bench) -> Iterator[Figure]:
    """Of the generated ledger and its views, closed and without write-ahead logs."""
    settings = Settings(database_path=str(bench.ledger))
    location = Location.of(settings)
    connection = database.open_reader(location.ledger, location, settings)
    try:
        events = int(connection.execute("SELECT count(*) FROM events").get)
        payload = int(connection.execute("SELECT sum(length(payload)) FROM events").get)
    finally:
        connection.close()
    ledger = Path(location.ledger).stat().st_size
    views = Path(location.views(location.generations()[-1])).stat().st_size
    for name, total in (
        ("payload of an event", payload),
        ("ledger beyond the payload", ledger - payload),
        ("views, all built-in projections", views),
    ):
        yield Figure(section=SECTION, name=name, unit="bytes/event", values=[total / events])
