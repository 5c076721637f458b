"""Each operation beside steady appends, and the same appends alone before each, in one run."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from support.server import Server

from stalls.appends import SteadyAppends
from stalls.operations import Credentials, Operation, Scene, Sizes

ALONE = "alone"
ALONE_S = 1.0
SETTLE_S = 0.2
"""What an operation leaves to be done behind its answer belongs to it."""


class Found(NamedTuple):
    """One operation, each of its tries: how long it took, and the longest wait of an append beside it."""

    operation: Operation
    took_s: list[float]
    longest_s: list[float]


class Run(NamedTuple):
    """What was found."""

    alone_s: list[float]
    """The waits of all appends that were sent alone."""
    operations: list[Found]
    refused: int
    """Appends that were answered with anything but 201."""


def measure(
    database: Path,
    sizes: Sizes,
    credentials: Credentials,
    *,
    tries: int,
    say: Callable[[str], None] = lambda _line: None,
    chosen: Callable[[Operation], bool] = lambda _operation: True,
) -> Run:
    """Serve the ledger that `seed` has prepared, and try every chosen operation so many times."""
    names: list[Operation] = []
    with Server(database) as server:
        scene = Scene(server.port, database, sizes, credentials)
        with SteadyAppends(server.port, credential=credentials.tenant) as appends:
            for _ in range(tries):
                names = [operation for operation in scene.operations() if chosen(operation)]
                for operation in names:
                    with appends.window(ALONE):
                        time.sleep(ALONE_S)
                    with appends.window(f"{operation.name}, {operation.size}"):
                        operation.run()
                        took_s = time.monotonic()
                        time.sleep(SETTLE_S)
                    del took_s
        scene.close()
        assert server.stop() == 0, server.stderr
    found = []
    for operation in names:
        key = f"{operation.name}, {operation.size}"
        longest_s = [max(waits, default=0.0) for waits in appends.waits_s(key)]
        took = [each - SETTLE_S for each in appends.durations_s(key)]
        found.append(Found(operation, took, longest_s))
        say(f"{key}: {min(took):.3f} s, longest {' '.join(f'{each * 1000:.0f}' for each in longest_s)} ms")
    alone = [wait for waits in appends.waits_s(ALONE) for wait in waits]
    return Run(alone, found, sum(each.status != 201 for each in appends.appends))
