"""The check behind the crash tests finds each kind of loss: a check that never fails proves nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from support.journal import Write, check

Stored = dict[str, list[dict[str, Any]]]


def write(number: int, *, parts: int = 1, acknowledged: bool = True) -> Write:
    """A write to the session `s` by the writer 0."""
    messages = [{"id": f"w0.{number}.{part}", "role": "user", "content": "x"} for part in range(parts)]
    return Write(0, number, "s", creates=False, single=False, key=None, messages=messages, acknowledged=acknowledged)


def stored(*writes: Write) -> Stored:
    """The session with the messages of *writes*."""
    messages = [message for each in writes for message in each.messages]
    return {"s": [{**message, "seq": seq} for seq, message in enumerate(messages, start=1)]}


FIRST, BATCH, LAST = write(1), write(2, parts=3), write(3)
UNKNOWN = write(4, parts=2, acknowledged=False)
WRITES = [FIRST, BATCH, LAST, UNKNOWN]


@pytest.mark.parametrize("found", [stored(FIRST, BATCH, LAST), stored(FIRST, BATCH, LAST, UNKNOWN)])
def test_all_that_was_acknowledged_is_enough(found: Stored) -> None:
    """What nobody was told about may be there or not."""
    check(WRITES, found)


def without(number: int) -> Callable[[Stored], None]:
    """Take one message away and close the gap."""

    def spoil(found: Stored) -> None:
        del found["s"][number]
        for seq, message in enumerate(found["s"], start=1):
            message["seq"] = seq

    return spoil


def change_content(found: Stored) -> None:
    """Another text."""
    found["s"][0]["content"] = "y"


def leave_a_gap(found: Stored) -> None:
    """A number that is missing."""
    found["s"][-1]["seq"] += 1


def move_to_another_session(found: Stored) -> None:
    """The right message in the wrong place."""
    found["t"] = [{**found["s"].pop(), "seq": 1}]


@pytest.mark.parametrize(
    "spoil",
    [without(0), without(2), without(4), without(5), change_content, leave_a_gap, move_to_another_session],
)
def test_a_loss_or_a_change_is_found(spoil: Callable[[Stored], None]) -> None:
    """A lost write, a torn batch, another text, a gap, a wrong session."""
    found = stored(FIRST, BATCH, LAST, UNKNOWN)
    spoil(found)
    with pytest.raises(AssertionError):
        check(WRITES, found)


@pytest.mark.parametrize(
    "found",
    [
        stored(FIRST, FIRST, BATCH, LAST),
        stored(BATCH, FIRST, LAST),
        stored(FIRST, BATCH, LAST, write(9)),
    ],
    ids=["twice", "out of order", "from nowhere"],
)
def test_a_message_too_many_or_out_of_order_is_found(found: Stored) -> None:
    """A repeated write, a writer's messages in another order, a message that nobody sent."""
    with pytest.raises(AssertionError):
        check(WRITES, found)
