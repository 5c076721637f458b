"""The memory of Idempotency-Keys."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatledger.errors import IdempotencyMismatch, NotFound
from chatledger.ledger import idempotency_store
from chatledger.ledger.idempotency_store import Answer, IdempotencyKey, Salts, fingerprint
from support.store import Store, create, message

KEY = IdempotencyKey("k", fingerprint("POST", "/v1/sessions", b"{}"))


@given(st.lists(st.integers(1, 2**53), max_size=50))
def test_positions_come_back_from_their_ranges(positions: list[int]) -> None:
    """In their order, whatever it is, repeated ones too."""
    assert idempotency_store._expand(idempotency_store._ranges(positions)) == positions


def test_a_run_of_positions_takes_two_numbers() -> None:
    """A batch of a thousand messages is a few bytes."""
    assert idempotency_store._ranges(list(range(5, 1005))) == "[[5,1004]]"
    assert idempotency_store._ranges([1, 2, 9, 3]) == "[[1,2],[9,9],[3,3]]"


def test_a_fingerprint_is_of_method_path_and_body() -> None:
    """Any other part is another request."""
    parts = [("POST", "/a", b"{}"), ("PUT", "/a", b"{}"), ("POST", "/a?x", b"{}"), ("POST", "/a", b"{} ")]
    assert len({fingerprint(*each) for each in parts}) == 4
    assert fingerprint("POST", "/a", b"b") == fingerprint("POST", "/a", b"b")
    assert len(KEY.fingerprint) == 32


@pytest.fixture
def used(store: Store) -> Store:
    """A store whose stream 1 has three events."""
    store.commit_all(create("s", message("m1"), message("m2")))
    return store


NO_SALTS = Salts({}, {})
"""Nothing of this transaction: those of the ledger are read."""


@pytest.mark.parametrize("answer", [Answer(1, 2, None, 1), Answer(1, 3, [3, 2, 2], 0), Answer(1, 1, [], 0)])
def test_a_key_finds_its_first_answer(used: Store, answer: Answer) -> None:
    """Of the session or of messages, in their order; for that tenant only."""
    idempotency_store.remember(used.ledger, [("a", KEY, answer)], NO_SALTS, now_us=1)
    assert idempotency_store.find(used.ledger, "a", KEY) == answer
    assert idempotency_store.find(used.ledger, "b", KEY) is None
    assert idempotency_store.find(used.ledger, "a", IdempotencyKey("K", KEY.fingerprint)) is None


def test_a_key_with_another_request_is_refused(used: Store) -> None:
    """Another tenant's use of the same key is its own."""
    idempotency_store.remember(used.ledger, [("a", KEY, Answer(1, 1, None, 1))], NO_SALTS, now_us=1)
    other = IdempotencyKey("k", fingerprint("POST", "/v1/sessions", b"other"))
    with pytest.raises(IdempotencyMismatch):
        idempotency_store.find(used.ledger, "a", other)
    assert idempotency_store.find(used.ledger, "b", other) is None


def test_old_keys_are_forgotten_oldest_first_and_young_ones_never(used: Store) -> None:
    """At most so many at a time, and none from the time limit on."""
    for number in range(10):
        key = IdempotencyKey(f"k{number}", b"f")
        idempotency_store.remember(used.ledger, [("a", key, Answer(1, 1, None, 1))], NO_SALTS, now_us=number)

    def left() -> list[str]:
        return [row[0] for row in used.ledger.execute("SELECT key FROM idempotency ORDER BY number")]

    idempotency_store.prune(used.ledger, before_us=5, limit=2)
    assert left() == [f"k{number}" for number in range(2, 10)]
    idempotency_store.prune(used.ledger, before_us=5, limit=100)
    assert left() == [f"k{number}" for number in range(5, 10)]


def test_what_is_kept_is_no_hash_of_the_request(used: Store) -> None:
    """It needs the salts of the events: of the last one, and of all that were said."""
    for number, answer in enumerate((Answer(1, 3, None, 3), Answer(1, 3, [2, 3], 0)), start=1):
        key = IdempotencyKey(f"k{number}", KEY.fingerprint)
        idempotency_store.remember(used.ledger, [("a", key, answer)], NO_SALTS, now_us=1)
    kept = [bytes(row[0]) for row in used.ledger.execute("SELECT fingerprint FROM idempotency ORDER BY number")]
    salts = [bytes(row[0]) for row in used.ledger.execute("SELECT salt FROM events ORDER BY position")]
    assert kept[0] == hmac.new(salts[2], KEY.fingerprint + b"".join(salts), hashlib.sha256).digest()
    assert kept[1] == hmac.new(salts[2], KEY.fingerprint + salts[1] + salts[2], hashlib.sha256).digest()


def test_salts_of_this_transaction_need_no_look_at_the_ledger(used: Store) -> None:
    """They give the same as those that are read."""
    rows = used.ledger.execute("SELECT position, stream, version, salt FROM events").fetchall()
    known = Salts({row[0]: row[3] for row in rows}, {(row[1], row[2]): row[3] for row in rows})
    for number, salts in enumerate((known, NO_SALTS)):
        for answer in (Answer(1, 3, None, 2), Answer(1, 3, [2, 3], 0)):
            key = IdempotencyKey(f"k{number}-{answer.positions}", KEY.fingerprint)
            idempotency_store.remember(used.ledger, [("a", key, answer)], salts, now_us=1)
    kept = [row[0] for row in used.ledger.execute("SELECT fingerprint FROM idempotency ORDER BY number")]
    assert kept[:2] == kept[2:]


@pytest.mark.parametrize("position", [1, 2, 3])
def test_a_key_dies_with_each_event_of_its_request(used: Store, position: int) -> None:
    """Whichever of them is erased: the same request finds nothing, and no guess can be tested any more."""
    used.ledger.execute("DROP TRIGGER events_update")
    idempotency_store.remember(used.ledger, [("a", KEY, Answer(1, 3, None, 3))], NO_SALTS, now_us=1)
    used.ledger.execute("UPDATE events SET salt = zeroblob(16) WHERE position = ?", (position,))
    with pytest.raises(NotFound):
        idempotency_store.find(used.ledger, "a", KEY)
