"""What all clients saw can be explained by one order, kills or not; and the check of it finds each kind of lie."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from crash.findings import assert_caught, assert_clean
from crash.harnesses import HARNESSES
from crash.history import run_history
from crash.history_check import Append, History, Listing, Read, violations
from support.seeds import new_seed

OPERATIONS = HARNESSES["history"].short


def test_thousands_of_operations_have_one_order() -> None:
    """Appends, reads, pages and listings of eight connections, with a SIGKILL after every thousand or so."""
    result = run_history(OPERATIONS, new_seed())
    assert_clean(result)
    assert result.counts["kills"] >= 3


@pytest.mark.parametrize("bug", ["stale_reads", "pages_skip", "answer_before_commit"])
def test_a_history_finds(bug: str) -> None:
    """The controls, in a real server."""
    assert_caught(run_history(1_500, seed=2, bug=bug))


FIRST = Append("s", ("a",), 0.0, 1.0, acknowledged=True, version=2)
SECOND = Append("s", ("b", "c"), 2.0, 3.0, acknowledged=True, version=4)
UNKNOWN = Append("s", ("d",), 4.0, 5.0, acknowledged=False)
EARLY = Read("s", 0, ("a",), 1.5, 1.6, 2, whole=True)
LATE = Read("s", 0, ("a", "b", "c"), 3.5, 3.6, 4, whole=True)
GOOD = History(
    appends=[FIRST, SECOND, UNKNOWN],
    reads=[EARLY, LATE],
    listings=[Listing((1, 2), 1.5, 1.6), Listing((1, 2, 3, 4), 3.5, 3.6)],
    final={"s": ["a", "b", "c"]},
)


@pytest.mark.parametrize("final", [["a", "b", "c"], ["a", "b", "c", "d"]])
def test_a_good_history_has_no_violation(final: list[str]) -> None:
    """What was not acknowledged may be there or not."""
    assert list(violations(replace(GOOD, final={"s": final}))) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda h: replace(h, final={"s": ["a"]}), "is lost"),
        (lambda h: replace(h, final={"s": ["a", "b"]}), "torn"),
        (lambda h: replace(h, final={"s": ["a", "b", "x", "c"]}), "torn"),
        (lambda h: replace(h, final={"s": ["a", "b", "c", "a"]}), "twice"),
        (lambda h: replace(h, final={"s": ["a", "b", "c", "x"]}), "never sent"),
        (lambda h: replace(h, final={"s": ["b", "c", "a"]}), "stands before"),
        (lambda h: replace(h, appends=[FIRST, replace(SECOND, version=2)]), "got version"),
        (lambda h: replace(h, reads=[replace(LATE, ids=("a", "c", "b"))]), "no part of the order"),
        (lambda h: replace(h, reads=[replace(LATE, ids=("a", "c"))]), "no part of the order"),
        (lambda h: replace(h, reads=[replace(LATE, version=5)]), "came with"),
        (lambda h: replace(h, reads=[replace(EARLY, start_s=3.5)]), "known to be there"),
        (lambda h: replace(h, appends=[FIRST, replace(SECOND, end_s=9.0)], reads=[LATE, replace(EARLY, start_s=4.0)]),
         "known to be there"),
        (lambda h: replace(h, reads=[LATE, replace(EARLY, start_s=4.0, whole=False)]), "was read after"),
        (lambda h: replace(h, listings=[Listing((1, 3), 0.0, 1.0)]), "gap"),
        (lambda h: replace(h, listings=[Listing((1, 2, 2), 0.0, 1.0)]), "gap"),
        (lambda h: replace(h, listings=[Listing((1, 2), 0.0, 1.0), Listing((1,), 2.0, 3.0)]), "after a longer one"),
    ],
)  # fmt: skip
def test_a_lie_is_found(spoil: Callable[[History], History], says: str) -> None:
    """Lost, torn, twice, out of order, stale, going back."""
    assert any(says in violation for violation in violations(spoil(GOOD)))
