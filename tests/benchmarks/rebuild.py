"""Rebuilding the views from the ledger, beside the shortest loop that does some of the same by hand."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bench import Bench
from benchmarks.figures import Figure, ratios
from chatledger.domain.events import MESSAGE_APPENDED, MessageAppended
from chatledger.settings import Settings
from chatledger.storage import transactions, views_file
from chatledger.storage.connection import Connection, open_reader
from chatledger.storage.paths import Location, remove
from chatledger.views.builder import BATCH_EVENTS, Builder
from chatledger.views.live_views import BUILT_IN
from chatledger_projections import messages, sessions
from chatledger_projections.projection import Projection

BAR = 400_000
BY_HAND_BAR = 0.7
SECTION = "Rebuild"
TWO = (sessions.PROJECTION, messages.PROJECTION)

_READ = "SELECT position, stream, type, payload FROM events WHERE position > ? ORDER BY position LIMIT ?"
_TABLE = """CREATE TABLE messages (position INTEGER PRIMARY KEY, session_id INTEGER NOT NULL, seq INTEGER NOT NULL,
  id TEXT NOT NULL, body TEXT, UNIQUE (session_id, seq), UNIQUE (id, session_id)) STRICT"""
_INSERT = "INSERT INTO messages VALUES (?, ?, ?, ?, CAST(? AS TEXT))"
_decode = msgspec.json.Decoder(MessageAppended).decode
_encode = msgspec.json.Encoder().encode


def run(bench: Bench) -> Iterator[Figure]:
    """Each way in turn, and over again."""
    ledger = bench.ledger
    folder = bench.new_folder("rebuild")
    ways: dict[str, Callable[[Connection], None]] = {
        "sessions and messages": lambda db: _rebuild(db, folder, TWO),
        "all built-in projections": lambda db: _rebuild(db, folder, BUILT_IN),
        "decode and insert messages by hand": lambda db: _by_hand(db, folder),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(bench.scale.rebuild_rounds):
        for name, way in ways.items():
            speeds[name].append(_speed(ledger, way))
            bench.say(f"rebuild, round {number + 1}: {name}: {speeds[name][-1]:,.0f} events/s")
    two, every, by_hand = speeds.values()
    for name, values in speeds.items():
        bar = BAR if values is two else None
        yield Figure(section=SECTION, name=name, unit="events/s", values=values, bar=bar)
    for name, values in (("sessions and messages", two), ("all built-in", every)):
        found = ratios(values, by_hand)
        yield Figure(section=SECTION, name=f"{name} ÷ by hand", unit="ratio", values=found, bar=BY_HAND_BAR)


def _speed(ledger: Path, way: Callable[[Connection], None]) -> float:
    """Events a second, over all of the ledger's events."""
    settings = Settings(database_path=str(ledger))
    connection = open_reader(str(ledger), Location.of(settings), settings)
    try:
        events = int(connection.execute("SELECT max(position) FROM events").get)
        started_s = time.perf_counter()
        way(connection)
        return events / (time.perf_counter() - started_s)
    finally:
        connection.close()


def _rebuild(ledger_db: Connection, folder: Path, projections: Sequence[Projection]) -> None:
    """Build a views file of only *projections*."""
    name = str(folder / "rebuilt.db")
    Builder(name, Location(name, memory=False), Settings(), projections).build(ledger_db).close()
    remove(name)


def _by_hand(ledger_db: Connection, folder: Path) -> None:
    """Decode each message and insert it into a table like ours, with the same settings of SQLite."""
    name = str(folder / "by-hand.db")
    location = Location(name, memory=False)
    db = views_file.open_views(name, location, Settings(), ledger_db)
    views_file.prepare_bulk(db, location)
    db.execute(_TABLE)
    position, rows = 0, list[tuple[Any, ...]]()
    while rows := ledger_db.execute(_READ, (position, BATCH_EVENTS)).fetchall():
        with transactions.immediate(db):
            db.executemany(_INSERT, _message_rows(rows))
        position = rows[-1][0]
    views_file.finish_bulk(db, location)
    db.close()
    remove(name)


def _message_rows(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, int, int, str, bytes]]:
    for position, stream, kind, payload in rows:
        if kind == MESSAGE_APPENDED:
            data = _decode(payload)
            yield position, stream, data.seq, data.message.id, _encode(data.message)
