"""A ledger of millions of events beside one of ten thousand: what may not grow with it. Not a part of the usual run."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import generate, sizes
from benchmarks.append import WARM_UP_S
from benchmarks.bench import Bench
from benchmarks.conversations import Conversation, typical_body
from benchmarks.figures import Figure, ratios
from benchmarks.load import Request
from benchmarks.process import Server
from chatledger.settings import Settings
from chatledger.storage import ledger_file
from chatledger.storage.paths import Location

SMALL_EVENTS = 10_000
LATENCY_AT_MOST = 1.3
RESIDENT_AT_MOST_MB = 200
START_AT_MOST_S = 1.5
PAGE_MESSAGES = 50
PATHS = 2_000
STARTS = 3
CONNECTIONS = (1, 64)


def run(bench: Bench) -> Iterator[Figure]:
    """Both ledgers are made, started some times, and asked in turn."""
    events = bench.scale.large_events
    section = f"A ledger of {events:,} events"
    ledgers = {"small": _make(bench, "small", SMALL_EVENTS)}
    started_s = time.perf_counter()
    ledgers["large"] = _make(bench, "large", events)
    speed = events / (time.perf_counter() - started_s)
    yield Figure(section=section, name="making it, all events through the committer", unit="events/s", values=[speed])
    yield from sizes.measure(section, ledgers["large"])
    yield from _starts(bench, section, ledgers)
    yield from _latencies(bench, section, ledgers)


def _make(bench: Bench, name: str, events: int) -> Path:
    path = bench.new_folder(f"ledger-{name}") / "ledger.db"
    bench.say(f"large: making a ledger of {events:,} events")
    generate.ledger(path, bench.conversations, events=events)
    return path


def _starts(bench: Bench, section: str, ledgers: dict[str, Path]) -> Iterator[Figure]:
    """From the start of the process to the answer of a read; the files are as the system left them in its cache."""
    for name, path in ledgers.items():
        took_s, resident_mb = [], []
        for _ in range(STARTS):
            started_s = time.perf_counter()
            with Server("chatledger", path.parent) as server:
                server.call("GET", "/v1/sessions?limit=1")
                took_s.append(time.perf_counter() - started_s)
                time.sleep(bench.scale.idle_s)
                resident_mb.append(server.resident_mb())
        bars = (START_AT_MOST_S, RESIDENT_AT_MOST_MB) if name == "large" else (None, None)
        for what, unit, values, at_most in (
            ("start to first answer", "s", took_s, bars[0]),
            ("resident memory, idle", "MB", resident_mb, bars[1]),
        ):
            yield Figure(section=section, name=f"{name}: {what}", unit=unit, values=values, at_most=at_most)


def _latencies(bench: Bench, section: str, ledgers: dict[str, Path]) -> Iterator[Figure]:
    body = typical_body(bench.conversations)
    wanted = _conversations(bench.conversations)
    with ExitStack() as stack:
        loads: dict[str, dict[str, tuple[str, Request]]] = {"append": {}, "page": {}}
        for name, path in ledgers.items():
            paths = tuple(f"/v1/sessions/{session}/messages" for session in _sessions(path, wanted))
            server = stack.enter_context(Server("chatledger", path.parent, log_level="warning"))
            pages = tuple(f"{each}?limit={PAGE_MESSAGES}" for each in paths)
            loads["page"][name] = (server.url, Request(paths=pages))
            loads["append"][name] = (server.url, Request(method="POST", paths=paths, body=body))
        for what in ("page", "append"):  # pages first, while the sessions are as long in both
            for connections in CONNECTIONS:
                yield from _measure(bench, section, what, loads[what], connections)


def _measure(
    bench: Bench, section: str, what: str, loads: dict[str, tuple[str, Request]], connections: int
) -> Iterator[Figure]:
    title = f"{what}, {connections} connection{'s' * (connections > 1)}: latency p50"
    found: dict[str, list[float]] = {name: [] for name in loads}
    for url, request in loads.values():
        bench.drive(url, request, connections=connections, seconds=WARM_UP_S)
    for number in range(bench.scale.rounds):
        for name, (url, request) in loads.items():
            found[name].append(bench.drive(url, request, connections=connections).p50_ms)
            bench.say(f"large, round {number + 1}: {title}: {name}: {found[name][-1]:.3g} ms")
    for name, values in found.items():
        yield Figure(section=section, name=f"{name}: {title}", unit="ms", values=values)
    values = ratios(found["large"], found["small"])
    yield Figure(section=section, name=f"{title}: large ÷ small", unit="ratio", values=values, at_most=LATENCY_AT_MOST)


def _conversations(conversations: list[Conversation]) -> set[str]:
    """Those that are whole in the small ledger, so that the pages of both ledgers are the same conversations'."""
    count: Counter[str] = Counter()
    for submission in islice(generate.submissions(conversations), SMALL_EVENTS):
        count[submission.session_id] += 1
    return {each.id for each in conversations if count[f"{each.id}.0"] == len(each.messages) + 1}


def _sessions(path: Path, wanted: set[str]) -> list[str]:
    """As many sessions of these conversations as are asked for, spread over the ledger, in an order by chance."""
    settings = Settings(database_path=str(path))
    connection = ledger_file.open_ledger_reader(Location.of(settings), settings)
    try:
        rows: list[tuple[Any, ...]] = connection.execute("SELECT session_id FROM streams ORDER BY key").fetchall()
    finally:
        connection.close()
    # The last of each conversation is left out: it may not be finished.
    last = {name.rpartition(".")[0]: name for (name,) in rows}
    every = [name for (name,) in rows if name.rpartition(".")[0] in wanted]
    found = [name for name in every if name.endswith(".0") or last[name.rpartition(".")[0]] != name]
    step = max(1, len(found) // PATHS)
    chosen = found[step - 1 :: step][:PATHS]
    random.Random(1).shuffle(chosen)
    return chosen
