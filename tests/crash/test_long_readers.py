"""Readers that do not end."""

from crash.findings import assert_caught, assert_clean
from crash.harnesses import HARNESSES
from crash.long_readers import run_long_readers
from support.seeds import new_seed


def test_a_log_that_a_reader_holds_is_seen_and_shrinks() -> None:
    """A metric, a warning, and the file is cut when the reader has gone; for the ledger and for the views."""
    assert_clean(run_long_readers(HARNESSES["long readers"].short, new_seed()))


def test_long_readers_find_logs_that_are_never_cut() -> None:
    """The control."""
    assert_caught(run_long_readers(1, seed=1, bug="logs_never_cut"))
