"""Power cuts: scenarios are recorded, and started again on the disks that a power cut at any operation may leave."""

import logging
import math
import os
import pickle
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import monotonic

import structlog

from crash import seeded_bugs
from crash.account import Account
from crash.disk import FIXED, Image, Recorder, Trace, images
from crash.findings import Findings, Progress, Result
from crash.invariants import Examiner, Judge, Recovered
from crash.scenarios import BY_NAME, SCENARIOS, Scenario, Stage, prepared
from crash.shim import watched

PROCESSES = 2
GO_ON_EVERY = 8
"""On so many of the images one is written to after its start."""
KEPT = 3
"""Failing images of a scenario that are kept, with the trace."""
ROUNDS_MAX = 100
SHARD_IMAGES = 2_000
"""So many images are of one recording; the next ones are of another."""


@dataclass(frozen=True)
class Recording:
    """A scenario as it was once played."""

    scenario: str
    account: Account
    trace: Trace


@dataclass(frozen=True)
class _Part:
    """Some images of one scenario: work for one process."""

    scenario: str
    seed: int
    images: int
    bug: str | None
    keep: str | None


def fast_folder() -> Path:
    """A new folder in memory, if there is such a file system: images are not there to outlast anything."""
    memory = Path("/dev/shm")  # noqa: S108
    return Path(tempfile.mkdtemp(prefix="power-cuts-", dir=memory if os.access(memory, os.W_OK) else None))


def record(scenario: Scenario, *, bug: str | None = None) -> Recording:
    """Play a scenario on a fresh folder."""
    folder = fast_folder()
    try:
        with seeded_bugs.put_in(bug):
            account = prepared(scenario, folder)
            recorder = Recorder(folder)
            with watched(folder, recorder):
                scenario.run(Stage(folder, account, recorder, early=bug == "answer_before_commit"))
        return Recording(scenario.name, account, recorder.trace)
    finally:
        shutil.rmtree(folder)


def play(recording: Recording, seed: int, count: int, keep: Path | None) -> tuple[Counter[str], list[str]]:
    """Start on *count* different images of a recording or a few more, spread over its operations.

    Returns:
        Counts, and the violations in words.
    """
    trace, scenario = recording.trace, BY_NAME[recording.scenario]
    counts: Counter[str] = Counter()
    violations: list[str] = []
    known: dict[bytes, Recovered] = {}
    scratch = fast_folder()
    try:
        examiner, judge = Examiner(scenario, scratch), Judge(recording.account)
        for image in _rounds(trace, seed, lambda: len(known) < count):
            counts["images built"] += 1
            digest = image.digest()
            found = known.get(digest)
            if found is None:
                found = known[digest] = start_on(image, examiner, scratch, go_on=len(known) % GO_ON_EVERY == 0)
            wrong = judge.violations(found, image.operation)
            if wrong:
                where = f"scenario {scenario.name!r}, seed {seed}, operation {image.operation}, variant {image.variant}"
                if keep is not None and len(violations) < KEPT:
                    _keep(keep, recording, seed, image)
                violations.append(f"{where} ({trace.describe(image.operation)}): {'; '.join(wrong)}")
        counts["images"] = len(known)
        counts["operations"] = sum(op.kind != "mark" for op in trace.ops)
        counts["rebuilds to compare with"] = examiner.rebuilds
    finally:
        shutil.rmtree(scratch)
    return counts, violations


def _rounds(trace: Trace, seed: int, more: Callable[[], bool]) -> Iterator[Image]:
    """The fixed images of each operation, then so many by chance in each round as long as *more* are wanted."""
    for start in range(0, ROUNDS_MAX * len(FIXED), len(FIXED)):
        yield from images(trace, seed, range(start, start + len(FIXED)))
        if not more():
            return


def start_on(image: Image, examiner: Examiner, scratch: Path, *, go_on: bool) -> Recovered:
    """Put an image onto a disk and start there."""
    folder = scratch / "image"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    image.write(folder)
    return examiner.examine(folder, go_on=go_on)


def _keep(keep: Path, recording: Recording, seed: int, image: Image) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    name = f"{recording.scenario.replace(' ', '-')}-{seed}"
    (keep / f"{name}.recording").write_bytes(pickle.dumps(recording))
    folder = keep / f"{name}-{image.operation}-{image.variant}"
    folder.mkdir(exist_ok=True)
    image.write(folder)


def replay(kept: Path, seed: int, operation: int, variant: int) -> tuple[Recovered, list[str]]:
    """Start once more on one image of a recording that was kept (`NAME-SEED.recording`).

    Of scenarios without threads a new recording has the same operations, so that `record` will do too.
    """
    recording: Recording = pickle.loads(kept.read_bytes())  # noqa: S301  # our own
    scratch = fast_folder()
    try:
        for image in images(recording.trace, seed, range(variant, variant + 1)):
            if image.operation == operation:
                found = start_on(image, Examiner(BY_NAME[recording.scenario], scratch), scratch, go_on=True)
                return found, Judge(recording.account).violations(found, operation)
    finally:
        shutil.rmtree(scratch)
    raise ValueError("there is no such operation")


def _do(part: _Part) -> tuple[Counter[str], list[str]]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    recording = record(BY_NAME[part.scenario], bug=part.bug)
    keep = None if part.keep is None else Path(part.keep)
    return play(recording, part.seed, part.images, keep)


def run_power_cuts(
    count: int,
    seed: int,
    progress: Progress,
    *,
    bug: str | None = None,
    scenarios: Sequence[str] = (),
    processes: int = PROCESSES,
    keep: Path | None = None,
) -> Result:
    """Start on *count* different images or a few more: each operation has four at the least.

    Args:
        count: How many images.
        seed: Of all that is left to chance.
        progress: Called with the images done, and those to do.
        bug: One to put into the code while it is recorded (`seeded_bugs.py`).
        scenarios: Those to play; all by default.
        processes: How many work at a time.
        keep: A folder for images that fail, and their recordings.
    """
    findings = Findings("power cuts", seed)
    names = list(scenarios or [scenario.name for scenario in SCENARIOS])
    shards = max(1, -(-count // (SHARD_IMAGES * len(names))))
    share = count / (shards * sum(BY_NAME[name].weight for name in names))
    parts = [
        _Part(name, seed + shard, math.ceil(share * BY_NAME[name].weight), bug, None if keep is None else str(keep))
        for shard in range(shards)
        for name in names
    ]
    began_s, done = monotonic(), 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_do, each) for each in parts]):
            counts, violations = future.result()
            findings.counts.update(counts)
            for violation in violations:
                findings.violation(violation)
            done += counts["images"]
            progress(done, max(done, count))
    findings.counts["scenarios"] = len(names)
    different = max(1, findings.counts["images"])
    milliseconds = (monotonic() - began_s) * 1000 * processes / different
    findings.notes.append(f"{milliseconds:.2f} ms of a processor for each image")
    return findings.result()
