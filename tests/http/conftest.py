"""Clients whose tenants no other test uses, on the module's server."""

from collections.abc import Iterator

import httpx
import pytest
from support.api import fresh
from support.server import Server


@pytest.fixture
def api(shared_server: Server) -> Iterator[httpx.Client]:
    """A client of a tenant of its own."""
    with shared_server.client(tenant=fresh("tenant")) as client:
        yield client


@pytest.fixture
def stranger(shared_server: Server) -> Iterator[httpx.Client]:
    """A client of another tenant."""
    with shared_server.client(tenant=fresh("stranger")) as client:
        yield client
