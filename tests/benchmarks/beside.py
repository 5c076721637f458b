"""Appending while the views are rebuilt, beside appending alone."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from benchmarks.append import WARM_UP_S, append_requests
from benchmarks.bench import Bench
from benchmarks.conversations import typical_body
from benchmarks.figures import Figure, ratios
from benchmarks.process import Server

BAR = 0.5
SECTION = "Rebuild while serving"
POLL_S = 0.02
PROJECTIONS = "/v1/admin/projections"


def run(bench: Bench) -> Iterator[Figure]:
    """Rounds alone and rounds with one rebuild after the other, in turn. A request that fails ends it all."""
    folder = bench.new_folder("beside")
    for path in bench.ledger.parent.iterdir():
        shutil.copy(path, folder)
    alone: list[float] = []
    during: list[float] = []
    p99_ms: list[float] = []
    rebuilds: list[float] = []
    with Server("chatledger", folder, log_level="warning") as server:
        request = append_requests(server, bench.scale.sessions, typical_body(bench.conversations))
        bench.drive(server.url, request, seconds=WARM_UP_S)
        for number in range(bench.scale.rounds):
            alone.append(bench.drive(server.url, request).per_second)
            with _rebuilding(server) as speeds:
                load = bench.drive(server.url, request)
            during.append(load.per_second)
            p99_ms.append(load.p99_ms)
            rebuilds.extend(speeds)
            bench.say(
                f"beside, round {number + 1}: {alone[-1]:,.0f} alone, {during[-1]:,.0f} during {len(speeds)} rebuilds"
            )
    yield Figure(section=SECTION, name="append alone", unit="requests/s", values=alone)
    yield Figure(section=SECTION, name="append during rebuilds", unit="requests/s", values=during)
    yield Figure(
        section=SECTION, name="append during rebuilds ÷ alone", unit="ratio", values=ratios(during, alone), bar=BAR
    )
    yield Figure(section=SECTION, name="append during rebuilds: latency p99", unit="ms", values=p99_ms)
    yield Figure(section=SECTION, name="rebuild beside these appends", unit="events/s", values=rebuilds)


@contextmanager
def _rebuilding(server: Server) -> Iterator[list[float]]:
    """One rebuild after the other for as long as the block takes; the speed of each, from the request to the swap."""
    speeds: list[float] = []
    stop = threading.Event()

    def rebuild() -> None:
        while not stop.is_set():
            started_s = time.perf_counter()
            server.call("POST", PROJECTIONS + "/rebuild")
            while (state := msgspec.json.decode(server.call("GET", PROJECTIONS)))["rebuild"] is not None:
                time.sleep(POLL_S)
            speeds.append(state["data"][0]["position"] / (time.perf_counter() - started_s))

    thread = threading.Thread(target=rebuild)
    thread.start()
    try:
        yield speeds
    finally:
        stop.set()
        thread.join()
