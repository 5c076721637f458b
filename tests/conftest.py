"""Fixtures that all tests share."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.server import Server

SLOW_FOLDERS = {"acceptance", "benchmarks", "browser", "cli", "crash"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what starts, kills or measures many processes: `make test-fast` leaves it out."""
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker("slow")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server on a ledger of its own."""
    with Server(tmp_path / "ledger.db", cwd=tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """An HTTP client of `server`, of the default tenant."""
    with server.client() as connected:
        yield connected


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server for the tests of one module, which each use sessions or tenants of their own."""
    folder = tmp_path_factory.mktemp("shared")
    with Server(folder / "ledger.db", cwd=folder) as running:
        yield running
