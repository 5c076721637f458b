"""Fixtures of the unit tests: the real database, never a stand-in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open, empty store."""
    with Store(tmp_path / "ledger.db") as opened:
        yield opened
