"""Each operation beside steady appends, and the same appends alone before each, in one run."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from stalls.appends import SteadyAppends
from stalls.operations import Credentials, Operation, Scene, Sizes
from support.server import Server

ALONE = "alone"
ALONE_S = 1.0
SETTLE_S = 0.2
"""What an operation leaves to be done behind its answer belongs to it."""


class Found(NamedTuple):
    """One operation, each of its tries: how long it took, and the longest wait of an append beside it."""

    operation: Operation
    took_s: list[float]
    longest_s: list[float]

    @property
    def median_longest_s(self) -> float:
        """Of the tries."""
        return statistics.median(self.longest_s)


class Measured(NamedTuple):
    """What was found, and the waits of all appends that were sent alone, in order of length."""

    alone_s: list[float]
    operations: list[Found]
    refused: int
    """Appends that were answered with anything but 201."""

    @property
    def alone_longest_s(self) -> float:
        """Of the appends alone."""
        return self.alone_s[-1]

    @property
    def alone_p999_s(self) -> float:
        """The wait that one of thousand appends alone exceeds."""
        return self.alone_s[int(len(self.alone_s) * 0.999)]


def measure(
    database: Path,
    sizes: Sizes,
    credentials: Credentials,
    *,
    tries: int,
    first: int = 1,
    chosen: Callable[[Operation], bool] = lambda _operation: True,
    say: Callable[[str], None] = lambda _line: None,
) -> Measured:
    """Serve the ledger that `seed` has prepared, and try each chosen operation so many times.

    What operations make has the number of the try in its name, from *first* on.
    """
    last: list[Operation] = []
    with Server(database) as server:
        with SteadyAppends(server.port, credential=credentials.tenant) as appends:
            scene = Scene(server.port, database, sizes, credentials, first=first)
            for _ in range(tries):
                last = [operation for operation in scene.operations() if chosen(operation)]
                for operation in last:
                    with appends.window(ALONE):
                        time.sleep(ALONE_S)
                    with appends.window(operation.title):
                        operation.run()
                        time.sleep(SETTLE_S)
            scene.close()
        assert server.stop() == 0, server.stderr
    found = [_found(operation, appends, say) for operation in last]
    alone_s = sorted(wait for waits in appends.waits_s(ALONE) for wait in waits)
    return Measured(alone_s, found, sum(each.status != 201 for each in appends.appends))


def _found(operation: Operation, appends: SteadyAppends, say: Callable[[str], None]) -> Found:
    longest_s = [max(waits, default=0.0) for waits in appends.waits_s(operation.title)]
    took_s = [took - SETTLE_S for took in appends.durations_s(operation.title)]
    waits = " ".join(f"{each * 1000:.0f}" for each in longest_s)
    say(f"{operation.title}: took {min(took_s):.3f} s; longest waits {waits} ms")
    return Found(operation, took_s, longest_s)
