"""The OpenAPI document as people read it: what each operation is called, and what stands at its head."""

import re
from typing import Any

import httpx
import pytest

from chatledger.http.openapi import operations
from support.api import read
from support.documents import ROOT
from support.server import Server

SUMMARIES = {
    "createSession": "Create a session",
    "listSessions": "List sessions",
    "getSession": "Get a session",
    "updateSession": "Update a session",
    "deleteSession": "Delete a session",
    "forkSession": "Fork a session",
    "appendMessages": "Append messages",
    "listMessages": "List messages",
    "getMessage": "Get a message",
    "removeMessage": "Remove a message",
    "listSessionEvents": "List the events of a session",
    "listEvents": "List the events of the tenant",
    "eraseSession": "Erase a session",
    "getErasure": "Get an erasure",
    "getSessionProof": "Get the proof bundle of a session",
    "getLedgerHead": "Get the head of the ledger",
    "getCheckpoint": "Get the signed checkpoint",
    "getTile": "Get a tile of the log",
    "showProjections": "Show the projections",
    "rebuildProjections": "Start a rebuild",
    "cancelRebuild": "Cancel a rebuild",
    "createKey": "Create an API key",
    "listKeys": "List API keys",
    "revokeKey": "Revoke an API key",
    "live": "Check liveness",
    "ready": "Check readiness",
    "metrics": "Get the metrics",
}
SENTENCE = re.compile(r"[A-Z][^\n]*\.")


@pytest.fixture(scope="module")
def document(shared_server: Server) -> dict[str, Any]:
    """The document as it is served."""
    with shared_server.client() as client:
        return read(client, "/schema/openapi.json")


def test_each_operation_has_a_summary_and_a_description(document: dict[str, Any]) -> None:
    """The summary is whole, and not the beginning of a longer sentence; the description says more."""
    found = {each["operationId"]: each for item in document["paths"].values() for each in item.values()}
    assert {name: operation["summary"] for name, operation in found.items()} == SUMMARIES
    for operation in found.values():
        assert SENTENCE.fullmatch(operation["description"])
        assert operation["description"] != f"{operation['summary']}."


def test_the_document_says_what_it_is_and_where_more_is(document: dict[str, Any]) -> None:
    """The pages that it names are those of the documentation."""
    assert document["info"]["description"] == operations.DESCRIPTION
    named = re.findall(r"`(docs/[a-z/-]+(?:\.md)?)`", operations.DESCRIPTION)
    assert {"docs/http-api.md", "docs/operations/"} <= set(named)
    assert [page for page in named if not (ROOT / page).exists()] == []


def test_a_tile_is_where_the_document_says(document: dict[str, Any], shared_server: Server) -> None:
    """By level and place, each of its form."""
    described = document["paths"]["/tlog/tile/{level}/{place}"]["get"]
    forms = {each["name"]: each["schema"]["pattern"] for each in described["parameters"] if each["in"] == "path"}
    assert all(re.search(forms["place"], place) for place in ("000", "x001/234", "000.p/1", "x001/x234/567.p/255"))
    assert not any(re.search(forms["place"], place) for place in ("0", "1000", "000.p/0", "000/001", "x001/"))
    with shared_server.client() as client:
        assert client.post("/v1/sessions", json={}).status_code == 201
        tile = client.get("/tlog/tile/entries/000.p/1")
        assert (tile.status_code, tile.headers["content-type"]) == (200, "application/octet-stream")
        assert list(described["responses"]["200"]["content"]) == ["application/octet-stream"]
        assert client.get("/tlog/tile/64/000.p/1").status_code == 404
        assert client.get("/tlog/tile/0/000.p/1?colour=red").status_code == 400
        assert client.get("/tlog/checkpoint?colour=red").status_code == 400


def test_a_page_of_the_whole_is_for_people(document: dict[str, Any]) -> None:
    """Descriptions of parameters and members are in plain words."""
    texts = set(re.findall(r"'description': [\"']([^\"']+)", str(document)))
    assert texts
    assert not [
        text for text in texts if re.search(r"\b(somebody|whoever|anew|good for nothing|a time to come)\b", text)
    ]


def test_the_way_to_the_page_is_not_an_operation(document: dict[str, Any], shared_server: Server) -> None:
    """It is for browsers."""
    assert "/" not in document["paths"]
    assert httpx.get(f"{shared_server.url}/", trust_env=False).status_code == 307
