"""Reading over HTTP, beside the same bytes from memory: what a read costs beyond an answer of its size."""

from collections.abc import Iterator

import msgspec

from benchmarks.bench import Bench
from benchmarks.conversations import first_messages
from benchmarks.figures import Figure, ratios
from benchmarks.launch import KEPT
from benchmarks.load import Request
from benchmarks.process import Server

SECTION = "Reads"
MESSAGES = 50
BAR = 0.25


def run(bench: Bench) -> Iterator[Figure]:
    """A page of a session's messages, a session with its newest messages, and a list of sessions."""
    with Server("chatledger", bench.new_folder("reads")) as server:
        names = _fill(bench, server)
        reads = {
            f"page of {MESSAGES} messages": (
                "page",
                BAR,
                [f"/v1/sessions/{name}/messages?limit={MESSAGES}" for name in names],
            ),
            f"session with {MESSAGES} messages": (
                "session",
                BAR,
                [f"/v1/sessions/{name}?messages={MESSAGES}" for name in names],
            ),
            f"list of {MESSAGES} sessions": ("list", None, [f"/v1/sessions?limit={MESSAGES}"]),
        }
        for title, (kind, bar, paths) in reads.items():
            yield from _measure(bench, server, title, kind, paths, bar)


def _fill(bench: Bench, server: Server) -> list[str]:
    messages = first_messages(bench.conversations, MESSAGES)
    names = [f"bench-{number}" for number in range(bench.scale.sessions)]
    for name in names:
        server.call("POST", "/v1/sessions", msgspec.json.encode({"id": name, "messages": messages}))
    return names


def _measure(
    bench: Bench, server: Server, title: str, kind: str, paths: list[str], bar: float | None
) -> Iterator[Figure]:
    answer = server.call("GET", paths[0])
    server.call("POST", f"{KEPT}/{kind}", answer)
    requests = {
        title: Request(paths=tuple(paths)),
        f"{title}: its bytes from memory": Request(paths=(f"{KEPT}/{kind}",)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in requests}
    latencies: list[float] = []
    for number in range(bench.scale.rounds):
        for name, request in requests.items():
            load = bench.drive(server.url, request)
            speeds[name].append(load.per_second)
            bench.say(f"reads, round {number + 1}: {name}: {load.per_second:,.0f} requests/s")
            if name == title:
                latencies.append(load.p99_ms)
    ours, static = speeds.values()
    for name, values in speeds.items():
        yield Figure(section=SECTION, name=name, unit="requests/s", values=values)
    yield Figure(
        section=SECTION, name=f"{title} ÷ its bytes from memory", unit="ratio", values=ratios(ours, static), bar=bar
    )
    yield Figure(section=SECTION, name=f"{title}: latency p99", unit="ms", values=latencies)
    yield Figure(section=SECTION, name=f"{title}: answer", unit="bytes", values=[float(len(answer))])
