"""A fault at each call of each thread."""

import pytest

from crash.findings import assert_caught, assert_clean, quiet
from crash.harnesses import HARNESSES
from crash.thread_faults import run_thread_faults
from support.seeds import new_seed


@pytest.mark.slow
def test_whatever_a_thread_meets_everybody_is_answered_and_the_service_goes_on() -> None:
    """Writer, checkpointer, rebuilds, readers, log, event loop: a sample of all calls and of all kinds of failures."""
    result = run_thread_faults(HARNESSES["faults in threads"].short, new_seed(), quiet)
    assert_clean(result)
    assert result.counts["faults that were met"] > result.counts["faults"] * 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "play"), [("threads_end", "commits"), ("answers_in_a_row", "commits"), ("rebuilds_stay", "rebuild")]
)
def test_faults_in_threads_find(bug: str, play: str) -> None:
    """The controls."""
    assert_caught(run_thread_faults(600, 1, quiet, bug=bug, plays=[play], processes=1))
