"""Power cuts and failing calls by themselves, in any number; the result is JSON: `cd tests && python -m crash -h`.

An image that failed is had again with --replay, the recording that was kept beside it, and the three numbers.
"""

import argparse
import dataclasses
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

from crash.bar import progress_bar
from crash.findings import Result
from crash.io_faults import PLAYS, run_io_faults
from crash.power_cuts import PROCESSES, replay, run_power_cuts
from crash.scenarios import BY_NAME


def _with_bar(run: Callable[..., Result], count: int, unit: str, options: argparse.Namespace, **more: object) -> Result:
    with progress_bar(count, unit, run.__name__) as progress:
        return run(count, options.seed, progress, processes=options.processes, **more)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m crash", description=__doc__)
    parser.add_argument("--images", type=int, default=0, help="power cuts: how many different images")
    parser.add_argument("--faults", type=int, default=0, help="failing calls: how many faults")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", action="append", default=[], choices=sorted({*BY_NAME, *PLAYS}), help="scenarios")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--keep", type=Path, help="a folder for images that fail, and their recordings")
    parser.add_argument("--replay", nargs=3, metavar=("RECORDING", "OPERATION", "VARIANT"))
    return parser.parse_args()


def main() -> None:
    """Run what was asked for."""
    options = _arguments()
    if options.replay:
        recording, operation, variant = options.replay
        found, wrong = replay(Path(recording), options.seed, int(operation), int(variant))
        print(json.dumps({"events": len(found.rows), "failure": found.failure, "violations": wrong}, indent=2))  # noqa: T201
        sys.exit(bool(wrong))
    results = []
    if options.images:
        results.append(
            _with_bar(run_power_cuts, options.images, "image", options, scenarios=options.only, keep=options.keep)
        )
    if options.faults:
        results.append(_with_bar(run_io_faults, options.faults, "fault", options, plays=options.only))
    print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))  # noqa: T201
    sys.exit(any(result.violations for result in results))


if __name__ == "__main__":
    main()
