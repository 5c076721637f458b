"""Each call on a file fails once, and from then on."""

import pytest

from crash.findings import assert_caught, assert_clean, quiet
from crash.harnesses import HARNESSES
from crash.io_faults import run_io_faults
from support.seeds import new_seed


@pytest.mark.slow
def test_failing_calls_have_clear_answers_and_lose_nothing() -> None:
    """Of commits, erasures, rebuilds, starts, stops, backups and restores, a sample of all calls and faults."""
    result = run_io_faults(HARNESSES["failing calls"].short, new_seed(), quiet)
    assert_clean(result)
    assert result.counts["faults that were met"] > result.counts["faults"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("bug", ["failed_commit_taken_for_none", "failed_sync_taken_for_success"])
def test_failing_calls_find(bug: str) -> None:
    """The controls."""
    assert_caught(run_io_faults(400, 1, quiet, bug=bug, plays=["commits"], processes=1))
