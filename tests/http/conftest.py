"""Clients whose tenants no other test uses, on the module's server."""

from collections.abc import Iterator

import httpx
import pytest

from support.api import client_of, fresh
from support.server import Server


@pytest.fixture(scope="module")
def transport() -> Iterator[httpx.HTTPTransport]:
    """The connections of the module's clients: a transport per test takes longer than the test."""
    with httpx.HTTPTransport() as shared:
        yield shared


@pytest.fixture
def api(shared_server: Server, transport: httpx.HTTPTransport) -> httpx.Client:
    """A client of a tenant of its own."""
    return client_of(shared_server, transport, fresh("tenant"))


@pytest.fixture
def stranger(shared_server: Server, transport: httpx.HTTPTransport) -> httpx.Client:
    """A client of another tenant."""
    return client_of(shared_server, transport, fresh("stranger"))
