"""A disk that is really full."""

from crash.findings import assert_caught, assert_clean
from crash.full_disk import run_full_disk
from crash.harnesses import HARNESSES
from support.seeds import new_seed


def test_a_full_disk_is_said_and_survived() -> None:
    """507, reads go on, and appends work again once there is room; by the best mechanism that this machine has."""
    assert_clean(run_full_disk(HARNESSES["full disk"].short, new_seed()))


def test_a_quota_is_survived() -> None:
    """The limit on a file's size, which every machine has: refused with Retry-After, and well again."""
    assert_clean(run_full_disk(2, new_seed(), force="quota"))


def test_a_full_disk_finds_a_writer_that_does_not_come_back() -> None:
    """The control."""
    assert_caught(run_full_disk(1, seed=1, bug="full_for_good"))


def test_a_full_disk_finds_a_log_that_ends_the_work() -> None:
    """The control: the log is on that disk, and its lines are what the writer ended by (F1)."""
    result = run_full_disk(1, seed=1, bug="log_ends_threads")
    assert_caught(result)
    assert "a request had no answer" in result.violations
