"""Appending over HTTP, beside a handler that does nothing.

As one writes it, behind the same edge; and the least that can be done with Litestar, there and by itself: the limit.
"""

from collections.abc import Iterator

import msgspec

from benchmarks.bench import Bench
from benchmarks.conversations import typical_body
from benchmarks.figures import Figure, ratios
from benchmarks.launch import LEAST, NOTHING
from benchmarks.load import Load, Request
from benchmarks.process import Server

BAR = 0.75
P99_AT_MOST = 3
LOG_LEVELS = ("info", "warning")
APPEND = "append"
NOTHING_DONE = "a handler that does nothing"
LEAST_DONE = "the least, same application"
BARE = "the least, bare Litestar"
WARM_UP_S = 1


class _Round(msgspec.Struct, frozen=True):
    """One kind's share of a round."""

    load: Load
    cpu_us: float
    group_commands: float | None


def run(bench: Bench) -> Iterator[Figure]:
    """Both with a log line for each request, which is the default, and without."""
    for level in LOG_LEVELS:
        yield from _figures(f"Append, log level {level}", _measure(bench, level))


def append_requests(server: Server, sessions: int, body: bytes) -> Request:
    """Appends of *body* to each of *sessions* new sessions in turn."""
    for number in range(sessions):
        server.call("POST", "/v1/sessions", msgspec.json.encode({"id": f"bench-{number}"}))
    paths = tuple(f"/v1/sessions/bench-{number}/messages" for number in range(sessions))
    return Request(method="POST", paths=paths, body=body, credential=server.credential)


def _measure(bench: Bench, level: str) -> dict[str, list[_Round]]:
    body = typical_body(bench.conversations)
    folders = [bench.new_folder(f"append-{level}-{kind}") for kind in ("ours", "bare")]
    with (
        Server("chatledger", folders[0], log_level=level) as ours,
        Server("bare", folders[1], log_level=level) as bare,
    ):
        nothing, least = (Request(method="POST", paths=(path,), body=body) for path in (NOTHING, LEAST))
        append = append_requests(ours, bench.scale.sessions, body)
        kinds = {
            NOTHING_DONE: (ours, nothing),
            APPEND: (ours, append),
            LEAST_DONE: (ours, least),
            BARE: (bare, least),
        }
        for server, request in kinds.values():
            bench.drive(server.url, request, seconds=WARM_UP_S)
        rounds: dict[str, list[_Round]] = {kind: [] for kind in kinds}
        for number in range(bench.scale.rounds):
            for kind, (server, request) in kinds.items():
                found = _round(bench, server, request, groups=kind == APPEND)
                bench.say(f"append, {level}, round {number + 1}: {kind}: {found.load.per_second:,.0f} requests/s")
                rounds[kind].append(found)
    return rounds


def _round(bench: Bench, server: Server, request: Request, *, groups: bool) -> _Round:
    before = [server.metric(name) for name in ("commands_total", "groups_total")] if groups else []
    started_us = server.cpu_us()
    load = bench.drive(server.url, request)
    cpu_us = (server.cpu_us() - started_us) / load.requests
    size = None
    if groups:
        after = [server.metric(name) for name in ("commands_total", "groups_total")]
        size = (after[0] - before[0]) / (after[1] - before[1])
    return _Round(load, cpu_us, size)


def _figures(section: str, rounds: dict[str, list[_Round]]) -> Iterator[Figure]:
    def figure(name: str, unit: str, values: list[float], bar: float | None = None) -> Figure:
        return Figure(section=section, name=name, unit=unit, values=values, bar=bar)

    speeds = {kind: [each.load.per_second for each in found] for kind, found in rounds.items()}
    for kind, values in speeds.items():
        yield figure(kind, "requests/s", values)
    for kind in (NOTHING_DONE, LEAST_DONE, BARE):
        bar = BAR if kind == NOTHING_DONE else None
        yield figure(f"append ÷ {kind}", "ratio", ratios(speeds[APPEND], speeds[kind]), bar)
    for kind, found in rounds.items():
        yield figure(f"{kind}: latency p50", "ms", [each.load.p50_ms for each in found])
        yield figure(f"{kind}: latency p99", "ms", [each.load.p99_ms for each in found])
    yield Figure(
        section=section,
        name="append ÷ a handler that does nothing: latency p99",
        unit="ratio",
        values=ratios(*([each.load.p99_ms for each in rounds[kind]] for kind in (APPEND, NOTHING_DONE))),
        at_most=P99_AT_MOST,
    )
    yield figure(
        "appends in one ledger transaction",
        "commands",
        [each.group_commands for each in rounds[APPEND] if each.group_commands is not None],
    )
    for kind, found in rounds.items():
        yield figure(f"{kind}: server CPU", "µs/request", [each.cpu_us for each in found])
