"""SIGKILL at random moments: what was acknowledged is there, and what was not can be sent again."""

import pytest

from crash.findings import assert_caught, assert_clean
from crash.harnesses import HARNESSES
from crash.kills import run_kills
from crash.tool_kills import run_tool_kills
from support.seeds import new_seed

KILLS = HARNESSES["kills"].short
WORKER_KILLS = 12
TOOL_KILLS = HARNESSES["kills of commands"].short


def test_a_killed_server_loses_nothing() -> None:
    """Eight connections write; the server is killed under load, at rest, while it rebuilds and while it starts."""
    result = run_kills(KILLS, new_seed())
    assert_clean(result)
    assert result.counts["kills"] == KILLS


def test_a_killed_server_of_two_workers_loses_nothing() -> None:
    """The same; now and then one of them is killed and the other one goes on, or the supervisor alone."""
    result = run_kills(WORKER_KILLS, new_seed(), workers="2")
    assert_clean(result)
    assert result.counts["kills"] == WORKER_KILLS


@pytest.mark.parametrize("bug", ["answer_before_commit", "idempotency_in_memory", "no_key_check"])
def test_kills_find(bug: str) -> None:
    """The controls. The seed has a kill at rest first, behind which nobody commits what was left open."""
    assert_caught(run_kills(10, seed=2, bug=bug, workers="1"))


def test_killed_commands_leave_nothing_half_done() -> None:
    """A rebuild, an import and a backup, each killed at random moments and run again."""
    assert_clean(run_tool_kills(TOOL_KILLS, new_seed()))


@pytest.mark.parametrize(("bug", "tool"), [("import_blind", "import"), ("backup_named_at_once", "backup")])
def test_kills_of_commands_find(bug: str, tool: str) -> None:
    """The controls."""
    assert_caught(run_tool_kills(30, seed=1, bug=bug, tools=(tool,)))
