"""The room in memory that all requests share."""

import pytest

from chatledger.errors import Overloaded
from chatledger.serving.supervisor import shared_out
from chatledger.settings import Settings
from chatledger.writing.byte_budget import BODY_TIMES, ByteBudget


def test_the_limit_itself_is_let_through_and_one_more_is_not() -> None:
    """What is refused takes nothing."""
    budget = ByteBudget(100)
    budget.hold(60)
    budget.hold(40)
    with pytest.raises(Overloaded):
        budget.hold(1)
    assert budget.bytes_held == 100
    budget.release(60)
    budget.hold(60)


def test_a_request_that_is_alone_gets_what_it_asks_for() -> None:
    """In pieces too; and nobody else gets anything beside it."""
    budget = ByteBudget(100)
    budget.hold(80)
    budget.hold(80, own_bytes=80)
    with pytest.raises(Overloaded):
        budget.hold(1)
    budget.hold(0)  # what takes nothing is in nobody's way


def test_what_is_in_memory_in_any_case_is_counted_beyond_the_limit() -> None:
    """It was let in before."""
    budget = ByteBudget(100)
    budget.hold(100)
    budget.keep(50)
    budget.release(100)
    assert budget.bytes_held == 50


def test_the_largest_body_has_room_by_default() -> None:
    """Beside smaller ones."""
    settings = Settings()
    assert BODY_TIMES * settings.body_bytes_max < settings.queue_bytes_max


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_of_several_workers_each_has_room_for_the_largest_body(workers: int) -> None:
    """Its share of the whole, where that is more."""
    settings = Settings(workers=workers)
    share = shared_out(settings).queue_bytes_max
    assert share == max(-(-settings.queue_bytes_max // workers), BODY_TIMES * settings.body_bytes_max)
