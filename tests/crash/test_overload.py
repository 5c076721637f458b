"""More than the server can take."""

from crash.findings import assert_caught, assert_clean
from crash.harnesses import HARNESSES
from crash.overload import run_overload
from support.seeds import new_seed

SECONDS = HARNESSES["overload"].short


def test_an_overload_is_refused_in_bounds() -> None:
    """Queue, memory and waits stay bounded, the rest gets 503 with Retry-After, and nothing acknowledged is lost."""
    assert_clean(run_overload(SECONDS, new_seed()))


def test_an_overload_finds_a_queue_without_bound() -> None:
    """The control."""
    result = run_overload(3, seed=1, bug="unbounded_queue")
    assert_caught(result)
    assert "limit" in result.violations[0]
