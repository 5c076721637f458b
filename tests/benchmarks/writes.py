"""Writing in bulk, and one message at a time over one connection."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks import generate
from benchmarks.append import append_requests
from benchmarks.bench import Bench
from benchmarks.conversations import first_messages, typical_body
from benchmarks.figures import Figure, ratios
from benchmarks.launch import NOTHING
from benchmarks.load import Request
from benchmarks.process import Server, environment

BULK = "Import and batches"
SINGLE = "One append at a time, over one connection"
BATCH_MESSAGES = 100
BATCH_CONNECTIONS = 4
BATCH_BAR = 60_000
SINGLE_AT_MOST = 2
SYNC_BYTES = 4096
SYNCS = 500


def run(bench: Bench) -> Iterator[Figure]:
    """Import first: it needs no server."""
    yield Figure(section=BULK, name="chatledger import", unit="messages/s", values=list(_imports(bench)))
    with Server("chatledger", bench.new_folder("batches")) as server:
        yield Figure(
            section=BULK,
            name=f"batches of {BATCH_MESSAGES} over HTTP, {BATCH_CONNECTIONS} connections",
            unit="messages/s",
            values=list(_batches(bench, server)),
            bar=BATCH_BAR,
        )
    with Server("chatledger", bench.new_folder("single")) as server:
        yield from _single(bench, server)


def _imports(bench: Bench) -> Iterator[float]:
    """The whole command each time, the start of Python and the opening of a new ledger included."""
    file = bench.folder / "import.jsonl"
    messages = generate.import_file(file, bench.conversations, messages=bench.scale.import_messages)
    for number in range(bench.scale.import_rounds):
        speed = messages / import_s(bench.new_folder(f"import-{number}"), file)
        bench.say(f"import, round {number + 1}: {speed:,.0f} messages/s")
        yield speed


def import_s(folder: Path, file: Path) -> float:
    """How many seconds it takes to import *file* into a new ledger in *folder*."""
    command = [
        sys.executable,
        "-m",
        "chatledger",
        "import",
        "--database",
        str(folder / "ledger.db"),
        str(file),
    ]
    started_s = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    return time.perf_counter() - started_s


def _batches(bench: Bench, server: Server) -> Iterator[float]:
    body = msgspec.json.encode({"messages": first_messages(bench.conversations, BATCH_MESSAGES)})
    request = append_requests(server, bench.scale.sessions, body)
    for number in range(bench.scale.rounds):
        load = bench.drive(server.url, request, connections=BATCH_CONNECTIONS)
        speed = load.per_second * BATCH_MESSAGES
        bench.say(f"batches, round {number + 1}: {speed:,.0f} messages/s")
        yield speed


def _single(bench: Bench, server: Server) -> Iterator[Figure]:
    body = typical_body(bench.conversations)
    append = append_requests(server, bench.scale.sessions, body)
    nothing = Request(method="POST", paths=(NOTHING,), body=body)
    appends: list[float] = []
    nothings: list[float] = []
    syncs: list[float] = []
    for number in range(bench.scale.rounds):
        syncs.append(_sync_ms(bench.folder))
        nothings.append(bench.drive(server.url, nothing, connections=1).p50_ms)
        appends.append(bench.drive(server.url, append, connections=1).p50_ms)
        bench.say(f"one at a time, round {number + 1}: {appends[-1]:.3g} ms")
    least = [sync + post for sync, post in zip(syncs, nothings, strict=True)]
    for name, unit, values, at_most in (
        ("append: latency p50", "ms", appends, None),
        ("a handler that does nothing: latency p50", "ms", nothings, None),
        (f"fdatasync of {SYNC_BYTES} bytes: p50", "ms", syncs, None),
        ("append ÷ (nothing + fdatasync)", "ratio", ratios(appends, least), SINGLE_AT_MOST),
    ):
        yield Figure(section=SINGLE, name=name, unit=unit, values=values, at_most=at_most)


def _sync_ms(folder: Path) -> float:
    """Median time to overwrite a block of a file that has its size already, as a WAL has, and sync it."""
    block = os.urandom(SYNC_BYTES)
    path = folder / "synced"
    path.write_bytes(block * SYNCS)
    descriptor = os.open(path, os.O_RDWR)
    took_s = []
    try:
        os.fsync(descriptor)
        for number in range(SYNCS):
            started_s = time.perf_counter()
            os.pwrite(descriptor, block, number * SYNC_BYTES)
            os.fdatasync(descriptor)
            took_s.append(time.perf_counter() - started_s)
    finally:
        os.close(descriptor)
    return statistics.median(took_s) * 1e3
