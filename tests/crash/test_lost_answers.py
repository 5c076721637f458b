"""Answers that are lost, clients that hang up, requests that come twice at the same time."""

import pytest

from crash.findings import assert_caught, assert_clean
from crash.harnesses import HARNESSES
from crash.lost_answers import Stage, run_lost_answers
from support.seeds import new_seed

REQUESTS = HARNESSES["lost answers"].short


def test_a_lost_answer_is_given_again() -> None:
    """Whatever stage its client was lost at, and whether the server was restarted: one event, the same answer."""
    result = run_lost_answers(REQUESTS, new_seed())
    assert_clean(result)
    assert sum(result.counts[stage.name.replace("_", " ").lower()] for stage in Stage) == REQUESTS


@pytest.mark.parametrize("bug", ["no_key_check", "idempotency_in_memory", "mixed_answers", "answer_before_commit"])
def test_lost_answers_find(bug: str) -> None:
    """The controls. The last one leaves its transaction open."""
    assert_caught(run_lost_answers(REQUESTS, seed=2, bug=bug))


def test_keys_that_are_in_memory_are_lost_with_a_restart_only() -> None:
    """So the check behind restarts is one that the check without them cannot stand in for."""
    assert_clean(run_lost_answers(40, seed=2, bug="idempotency_in_memory", restarts=False))
