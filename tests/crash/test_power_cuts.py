"""Power cuts at each operation on the disk, and that the harness would find what it is to find."""

import pytest

from crash.findings import assert_caught, assert_clean, quiet
from crash.harnesses import HARNESSES
from crash.power_cuts import fast_folder, play, record, replay, run_power_cuts
from crash.scenarios import BY_NAME
from support.seeds import new_seed


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_in_a_power_cut() -> None:
    """Starts on the disks that a power cut may leave: all scenarios, at each operation."""
    result = run_power_cuts(HARNESSES["power cuts"].short, new_seed(), quiet)
    assert_clean(result)
    assert result.counts["images"] >= HARNESSES["power cuts"].short


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "scenario"),
    [
        ("synchronous_normal", "commits"),
        ("answer_before_commit", "commits"),
        ("views_position_first", "commits"),
        ("no_folder_sync", "first start"),
        ("no_folder_sync", "backup"),
        ("list_after_erasing", "erasure"),
    ],
)
def test_power_cuts_find(bug: str, scenario: str) -> None:
    """The controls."""
    assert_caught(run_power_cuts(100, 1, quiet, bug=bug, scenarios=[scenario], processes=1))


def test_a_failing_image_can_be_had_again() -> None:
    """From the recording that was kept, the seed, the operation and the variant; with the same violations."""
    kept = fast_folder()
    recording = record(BY_NAME["commits"], bug="answer_before_commit")
    _, violations = play(recording, 7, 10, kept)
    name = min(path.name for path in kept.iterdir() if path.is_dir())
    operation, variant = map(int, name.split("-")[-2:])
    found, again = replay(kept / "commits-7.recording", 7, operation, variant)
    assert found.rows
    assert any(
        f"operation {operation}, variant {variant} " in each and each.endswith("; ".join(again)) for each in violations
    )


def test_a_scenario_has_the_same_operations_each_time() -> None:
    """One without threads: so a seed, an operation and a variant are enough to name an image."""
    one, other = (record(BY_NAME["erasure"]).trace for _ in range(2))
    assert [(op.kind, op.file, op.offset, len(op.data)) for op in one.ops] == [
        (op.kind, op.file, op.offset, len(op.data)) for op in other.ops
    ]
