"""What an event takes on the disk."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from chatledger.settings import Settings
from chatledger.storage.connection import open_reader
from chatledger.storage.paths import Location

SECTION = "Sizes"
LEDGER_AT_MOST = 220


def run(bench: Bench) -> Iterator[Figure]:
    """Of the generated ledger."""
    yield from measure(SECTION, bench.ledger)


def measure(section: str, path: Path) -> Iterator[Figure]:
    """Of a ledger and its views, closed and without write-ahead logs."""
    settings = Settings(database_path=str(path))
    location = Location.of(settings)
    connection = open_reader(location.ledger, location, settings)
    try:
        events = int(connection.execute("SELECT count(*) FROM events").get)
        payload = int(connection.execute("SELECT sum(length(payload)) FROM events").get)
    finally:
        connection.close()
    ledger = Path(location.ledger).stat().st_size
    views = Path(location.views(location.generations()[-1])).stat().st_size
    for name, total, at_most in (
        ("payload of an event", payload, None),
        ("ledger beyond the payload", ledger - payload, LEDGER_AT_MOST),
        ("views, all built-in projections", views, None),
    ):
        yield Figure(section=section, name=name, unit="bytes/event", values=[total / events], at_most=at_most)
