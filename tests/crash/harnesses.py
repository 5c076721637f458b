"""The harnesses, with the numbers of their short and of their long form."""

from collections.abc import Callable
from dataclasses import dataclass

from crash.clocks import run_clocks
from crash.findings import Progress, Result
from crash.full_disk import run_full_disk
from crash.history import run_history
from crash.io_faults import run_io_faults
from crash.kills import run_kills
from crash.long_readers import run_long_readers
from crash.lost_answers import run_lost_answers
from crash.overload import run_overload
from crash.power_cuts import run_power_cuts
from crash.thread_faults import run_thread_faults
from crash.tool_kills import run_tool_kills


@dataclass(frozen=True)
class Harness:
    """`run(count, seed, progress)`, and so many of *unit* in each form."""

    run: Callable[[int, int, Progress], Result]
    unit: str
    short: int
    long: int


HARNESSES = {
    "power cuts": Harness(run_power_cuts, "images", 4_000, 200_000),
    "failing calls": Harness(run_io_faults, "faults", 1_500, 20_000),
    "faults in threads": Harness(run_thread_faults, "faults", 400, 20_000),
    "kills": Harness(run_kills, "kills", 50, 1_000),
    "kills of commands": Harness(run_tool_kills, "kills", 24, 500),
    "full disk": Harness(run_full_disk, "times full", 3, 50),
    "lost answers": Harness(run_lost_answers, "answers", 200, 5_000),
    "overload": Harness(run_overload, "seconds", 12, 60),
    "long readers": Harness(run_long_readers, "long reads", 4, 40),
    "clocks": Harness(run_clocks, "jumps", 12, 200),
    "history": Harness(run_history, "operations", 5_000, 100_000),
}
"""By name."""
