"""What every operation costs the appends of others, beside a small and beside a large ledger (rule 12)."""

from collections.abc import Iterator, Sequence

from benchmarks import generate
from benchmarks.bench import Bench
from benchmarks.figures import Figure, ratios
from stalls.measure import Found, Measured, measure
from stalls.operations import LIMITS, SHORT, seed

SMALL_EVENTS = 10_000
TRIES = 5
MORE_MS = 250
"""How much longer an append may wait for what one caller asks for than it waits alone."""
DIFFERENCE_TIMES = 1.5
DIFFERENCE_MS = 50
"""Two longest waits are the same where one is less than so many times the other, or so much longer."""
ERASE = "erase a session, 1,000 messages"
BATCH = "append messages, 1,000"
ERASE_TIMES = 2
TAIL_TIMES = 3


def run(bench: Bench) -> Iterator[Figure]:
    """Each operation at the largest size that the limits allow, beside 100 appends/s, in each of the ledgers."""
    events = {"small": SMALL_EVENTS, "large": bench.scale.large_events}
    measured = {name: _measure(bench, name, count) for name, count in events.items()}
    for name, count in events.items():
        yield from _operations(f"Appends beside every operation, {count:,} events", measured[name])
    section = "Appends beside every operation: the small and the large ledger"
    yield _differing(bench, section, measured)
    for name, found in measured.items():
        yield from _erasure(section, name, found)


def _measure(bench: Bench, name: str, events: int) -> Sequence[Measured]:
    """Operations that read the whole ledger are tried once where that takes long."""
    path = bench.new_folder(f"stalls-{name}") / "ledger.db"
    bench.say(f"stalls: making a ledger of {events:,} events")
    generate.ledger(path, bench.conversations, events=events)
    sizes = LIMITS if bench.scale.stall_at_limits else SHORT
    credentials = seed(path, sizes)
    tries = TRIES if bench.scale.stall_at_limits else 1
    once = 1 if name == "large" else tries
    say = lambda line: bench.say(f"stalls, {name}: {line}")  # noqa: E731
    return [
        measure(path, sizes, credentials, tries=tries, chosen=lambda each: not each.reads_all, say=say),
        measure(path, sizes, credentials, tries=once, chosen=lambda each: each.reads_all, say=say),
    ]


def _operations(section: str, measured: Sequence[Measured]) -> Iterator[Figure]:
    for part in measured:
        bar = part.alone_longest_s * 1000 + MORE_MS
        for found in part.operations:
            waits, name = [each * 1000 for each in found.longest_s], found.operation.title
            yield Figure(section=section, name=f"{name}: an append waits at most", unit="ms", values=waits, at_most=bar)
            yield Figure(section=section, name=f"{name}: it takes", unit="ms", values=_ms(found.took_s))
    alone = [part.alone_longest_s * 1000 for part in measured]
    yield Figure(section=section, name="appends alone wait at most", unit="ms", values=alone)


def _differing(bench: Bench, section: str, measured: dict[str, Sequence[Measured]]) -> Figure:
    """How many operations hold appends longer in the large ledger."""
    small, large = ({each.operation.title: each for each in _all(found)} for found in measured.values())
    differing = []
    for title in small:
        wait_small, wait_large = small[title].median_longest_s * 1000, large[title].median_longest_s * 1000
        if wait_large > max(DIFFERENCE_TIMES * wait_small, wait_small + DIFFERENCE_MS):
            differing.append(title)
            bench.say(f"stalls: {title}: {wait_small:.0f} ms, and {wait_large:.0f} ms in the large ledger")
    name = f"operations of {len(small)} whose longest waits differ (by {DIFFERENCE_TIMES} times and {DIFFERENCE_MS} ms)"
    return Figure(section=section, name=name, unit="operations", values=[len(differing)], at_most=0)


def _erasure(section: str, name: str, measured: Sequence[Measured]) -> Iterator[Figure]:
    """Of 1,000 messages: its time, and the waits beside it."""
    found = {each.operation.title: each for each in _all(measured)}
    erase, batch = found[ERASE], found[BATCH]
    values = ratios(erase.took_s, batch.took_s)
    yield Figure(section=section, name=f"{name}: {ERASE} ÷ {BATCH}", unit="ratio", values=values, at_most=ERASE_TIMES)
    tail = measured[0].alone_p999_s * 1000
    bar = max(TAIL_TIMES * tail, tail + DIFFERENCE_MS)
    what = f"{name}: {ERASE}: an append waits at most (alone, p99.9: {tail:.0f} ms)"
    yield Figure(section=section, name=what, unit="ms", values=_ms(erase.longest_s), at_most=bar)


def _all(measured: Sequence[Measured]) -> Iterator[Found]:
    for part in measured:
        yield from part.operations


def _ms(values_s: Sequence[float]) -> list[float]:
    return [each * 1000 for each in values_s]
