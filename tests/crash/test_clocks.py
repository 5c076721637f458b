"""Clocks that jump."""

import pytest

from crash.clocks import run_clocks
from crash.findings import assert_caught, assert_clean
from crash.harnesses import HARNESSES
from support.seeds import new_seed


def test_a_jumping_clock_changes_nothing_but_times() -> None:
    """Order, ids, pages and keys, while the clock goes back a day or ahead a year under load."""
    assert_clean(run_clocks(HARNESSES["clocks"].short, new_seed()))


@pytest.mark.parametrize("bug", ["order_by_clock", "keys_by_the_clock"])
def test_clocks_find(bug: str) -> None:
    """The controls."""
    assert_caught(run_clocks(4, seed=1, bug=bug))
