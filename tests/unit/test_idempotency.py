"""The memory of Idempotency-Keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.store import Store, create

from service import idempotency
from service.errors import IdempotencyMismatch
from service.idempotency import Answer, IdempotencyKey, fingerprint

KEY = IdempotencyKey("k", fingerprint("POST", "/v1/sessions", b"{}"))


@given(st.lists(st.integers(1, 2**53), max_size=50))
def test_positions_come_back_from_their_ranges(positions: list[int]) -> None:
    """In their order, whatever it is, repeated ones too."""
    assert idempotency._expand(idempotency._ranges(positions)) == positions


def test_a_run_of_positions_takes_two_numbers() -> None:
    """A batch of a thousand messages is a few bytes."""
    assert idempotency._ranges(list(range(5, 1005))) == "[[5,1004]]"
    assert idempotency._ranges([1, 2, 9, 3]) == "[[1,2],[9,9],[3,3]]"


def test_a_fingerprint_is_of_method_path_and_body() -> None:
    """Any other part is another request."""
    parts = [("POST", "/a", b"{}"), ("PUT", "/a", b"{}"), ("POST", "/a?x", b"{}"), ("POST", "/a", b"{} ")]
    assert len({fingerprint(*each) for each in parts}) == 4
    assert fingerprint("POST", "/a", b"b") == fingerprint("POST", "/a", b"b")
    assert len(KEY.fingerprint) == 32


@pytest.fixture
def used(store: Store) -> Store:
    """A store whose stream 1 may be referred to."""
    store.commit_all(create("s"))
    return store


@pytest.mark.parametrize("answer", [Answer(1, 1, None), Answer(1, 4, [2, 3, 7]), Answer(1, 1, [])])
def test_a_key_finds_its_first_answer(used: Store, answer: Answer) -> None:
    """Of the session or of messages, in their order; for that tenant only."""
    idempotency.remember(used.ledger, [("a", KEY, answer)], now_us=1)
    assert idempotency.find(used.ledger, "a", KEY) == answer
    assert idempotency.find(used.ledger, "b", KEY) is None
    assert idempotency.find(used.ledger, "a", IdempotencyKey("K", KEY.fingerprint)) is None


def test_a_key_with_another_request_is_refused(used: Store) -> None:
    """Another tenant's use of the same key is its own."""
    idempotency.remember(used.ledger, [("a", KEY, Answer(1, 1, None))], now_us=1)
    other = IdempotencyKey("k", fingerprint("POST", "/v1/sessions", b"other"))
    with pytest.raises(IdempotencyMismatch):
        idempotency.find(used.ledger, "a", other)
    assert idempotency.find(used.ledger, "b", other) is None


def test_old_keys_are_forgotten_oldest_first_and_young_ones_never(used: Store) -> None:
    """At most so many at a time, and none from the time limit on."""
    for number in range(10):
        key = IdempotencyKey(f"k{number}", b"f")
        idempotency.remember(used.ledger, [("a", key, Answer(1, 1, None))], now_us=number)

    def left() -> list[str]:
        return [row[0] for row in used.ledger.execute("SELECT key FROM idempotency ORDER BY number")]

    idempotency.prune(used.ledger, before_us=5, limit=2)
    assert left() == [f"k{number}" for number in range(2, 10)]
    idempotency.prune(used.ledger, before_us=5, limit=100)
    assert left() == [f"k{number}" for number in range(5, 10)]
