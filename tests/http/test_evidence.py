"""Evidence over HTTP: signed head, proof bundles and transparency log, checked by a client that trusts nothing."""

import json
from collections.abc import Callable

import httpx
import pytest

from support import independent_verifier as independent
from support.api import Json, append, create, problem, talk

TILE = 256
FOR_EVER = "public, max-age=31536000, immutable"


@pytest.fixture
def grown(api: httpx.Client) -> httpx.Client:
    """A client whose session `s`, and so the module's ledger, has more events than a tile."""
    create(api, messages=talk(300))
    return api


def head_of(client: httpx.Client) -> Json:
    """The ledger's head, its signature checked, in agreement with itself."""
    found: Json = client.get("/v1/ledger/head").json()
    head = independent.verify_checkpoint(found["checkpoint"], found["public_key"])
    assert (head.size, head.root.hex()) == (found["size"], found["root"])
    assert head.origin == f"chatledger/{found['ledger_id']}"
    return found


def place(number: int) -> str:
    """A tile's number in a path."""
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(groups)


def tiles(client: httpx.Client, kind: str, size: int) -> list[bytes]:
    """All tiles of a kind, up to the given number of hashes or entries, the partial one too."""
    found = []
    for first in range(0, size, TILE):
        width = min(TILE, size - first)
        path = f"/tlog/tile/{kind}/{place(first // TILE)}" + ("" if width == TILE else f".p/{width}")
        response = client.get(path)
        assert response.status_code == 200, path
        assert response.headers["content-type"] == "application/octet-stream"
        found.append(response.content)
    return found


def hashes_in(tile: bytes) -> list[bytes]:
    """A tile's hashes."""
    return [tile[at : at + 32] for at in range(0, len(tile), 32)]


def entries_in(tile: bytes) -> list[bytes]:
    """The entries of a tile of entries."""
    found, at = [], 0
    while at < len(tile):
        length = int.from_bytes(tile[at : at + 2], "big")
        found.append(tile[at + 2 : at + 2 + length])
        at += 2 + length
    assert at == len(tile)
    return found


# ---------------------------------------------------------------- the head


def test_the_head_is_signed_and_grows(api: httpx.Client) -> None:
    """Each event is one more leaf; the key stays."""
    before = head_of(api)
    create(api, messages=talk(2))
    after = head_of(api)
    assert after["size"] == before["size"] + 3
    assert (after["public_key"], after["ledger_id"]) == (before["public_key"], before["ledger_id"])
    assert after["root"] != before["root"]


def test_the_checkpoint_is_the_heads(api: httpx.Client) -> None:
    """It is text, and nobody may keep it."""
    create(api)
    response = api.get("/tlog/checkpoint")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert "immutable" not in response.headers.get("cache-control", "")
    assert response.text == head_of(api)["checkpoint"]


def test_the_head_has_no_parameters(api: httpx.Client) -> None:
    """An unknown one is refused, as everywhere."""
    problem(api.get("/v1/ledger/head?size=3"), 400)


# ---------------------------------------------------------------- tiles and entries


def test_the_root_follows_from_the_tiles(grown: httpx.Client) -> None:
    """A client that reads only the leaves' tiles comes to the signed root."""
    head = head_of(grown)
    leaves = [found for tile in tiles(grown, "0", head["size"]) for found in hashes_in(tile)]
    assert len(leaves) == head["size"] > TILE
    assert independent.root_of(leaves).hex() == head["root"]
    level_1 = [found for tile in tiles(grown, "1", head["size"] // TILE) for found in hashes_in(tile)]
    assert level_1 == [independent.root_of(leaves[at : at + TILE]) for at in range(0, len(leaves) - TILE + 1, TILE)]


def test_the_root_follows_from_the_entries(grown: httpx.Client) -> None:
    """So does one that reads the records; they say all but the payload, and say it canonically."""
    head = head_of(grown)
    entries = [found for tile in tiles(grown, "entries", head["size"]) for found in entries_in(tile)]
    assert independent.root_of([independent.leaf_of(entry) for entry in entries]).hex() == head["root"]
    for position, entry in enumerate(entries, 1):
        record = json.loads(entry)
        assert independent.record_of(record) == entry
        assert record["position"] == position
        assert set(record) == set(independent.RECORD)
    assert b"message 1" not in b"".join(entries)


def test_an_earlier_head_is_continued(grown: httpx.Client) -> None:
    """A consistency proof that a client makes from tiles leads from the earlier root to the later one."""
    before = head_of(grown)
    append(grown)
    after = head_of(grown)
    leaves = [found for tile in tiles(grown, "0", after["size"]) for found in hashes_in(tile)]
    assert independent.root_of(leaves[: before["size"]]).hex() == before["root"]


@pytest.mark.parametrize("kind", ["0", "entries"])
def test_full_tiles_never_change(grown: httpx.Client, kind: str) -> None:
    """They may be kept for ever, and are the same when the ledger has grown."""
    first = grown.get(f"/tlog/tile/{kind}/000")
    append(grown)
    again = grown.get(f"/tlog/tile/{kind}/000")
    assert first.headers["cache-control"] == again.headers["cache-control"] == FOR_EVER
    assert first.content == again.content


@pytest.mark.parametrize(("kind", "split"), [("0", hashes_in), ("entries", entries_in)])
def test_part_of_a_tile_is_its_beginning(grown: httpx.Client, kind: str, split: Callable[[bytes], list[bytes]]) -> None:
    """Of each width, of a full tile too."""
    whole = split(grown.get(f"/tlog/tile/{kind}/000").content)
    assert len(whole) == TILE
    for width in (1, 2, 100, 255):
        assert split(grown.get(f"/tlog/tile/{kind}/000.p/{width}").content) == whole[:width]


@pytest.mark.parametrize(
    "path",
    [
        "/tlog",
        "/tlog/tile",
        "/tlog/tile/0",
        "/tlog/tile/0/0",
        "/tlog/tile/0/0000",
        "/tlog/tile/0/-01",
        "/tlog/tile/0/abc",
        "/tlog/tile/0/000.p",
        "/tlog/tile/0/000.p/",
        "/tlog/tile/0/000.p/0",
        "/tlog/tile/0/000.p/01",
        "/tlog/tile/0/000.p/256",
        "/tlog/tile/0/000.p/1000",
        "/tlog/tile/0/000.p/x",
        "/tlog/tile/0/000/000",
        "/tlog/tile/0/x000",
        "/tlog/tile/0/x000/000",
        "/tlog/tile/0/" + "x999/" * 4 + "999",
        "/tlog/tile/1/" + "x999/" * 4 + "999",
        "/tlog/tile/entries/" + "x999/" * 4 + "999",
        "/tlog/tile/0/999",
        "/tlog/tile/0/999.p/1",
        "/tlog/tile/0/x001/000",
        "/tlog/tile/entries/999",
        "/tlog/tile/entries/999.p/1",
        "/tlog/tile/0/" + "x999/" * 8 + "999",
        "/tlog/tile/1/" + "x999/" * 8 + "999",
        "/tlog/tile/entries/" + "x999/" * 8 + "999",
        "/tlog/tile/1/000",
        "/tlog/tile/2/000.p/1",
        "/tlog/tile/63/000",
        "/tlog/tile/64/000",
        "/tlog/tile/00/000",
        "/tlog/tile/-1/000",
        "/tlog/tile/data/000",
        "/tlog/tile/0/%30%30%30%2e%70%2f999",
        "/tlog/checkpoints",
    ],
)
def test_a_place_that_is_none_is_not_found(grown: httpx.Client, path: str) -> None:
    """Numbers in another form, widths that no tile has, levels and tiles that the tree does not reach."""
    problem(grown.get(path), 404, "not-found")


# ---------------------------------------------------------------- proof bundles


def test_a_bundle_proves_a_session(grown: httpx.Client) -> None:
    """All of its events lead to the head that the ledger has."""
    response = grown.get("/v1/sessions/s/proof")
    assert response.status_code == 200
    head = head_of(grown)
    bundle = independent.verify_bundle(response.text, verifier_key=head["public_key"])
    assert bundle["checkpoint"] == head["checkpoint"]
    assert [event["version"] for event in bundle["events"]] == list(range(1, 302))
    assert {event["session"] for event in bundle["events"]} == {"s"}
    assert json.loads(bundle["events"][1]["payload"])["message"]["content"] == "message 1"


def test_a_deleted_session_is_still_proven(api: httpx.Client) -> None:
    """Its events stay for audit, the deletion among them."""
    create(api, messages=talk(2))
    assert api.delete("/v1/sessions/s").status_code == 204
    bundle = independent.verify_bundle(api.get("/v1/sessions/s/proof").text)
    assert [event["type"] for event in bundle["events"]][-1] == "session.deleted"


def test_another_tenants_session_is_as_one_that_is_not_there(api: httpx.Client, stranger: httpx.Client) -> None:
    """The answers differ in nothing but the request's own id."""
    create(api)
    theirs = stranger.get("/v1/sessions/s/proof")
    absent = api.get("/v1/sessions/absent/proof")
    documents = [problem(each, 404) for each in (theirs, absent)]
    for document in documents:
        del document["request_id"]
    assert documents[0] == documents[1]
    assert dict(theirs.headers).keys() == dict(absent.headers).keys()
    assert len(theirs.content) == len(absent.content)


def test_tenants_with_one_session_id_get_a_bundle_each(api: httpx.Client, stranger: httpx.Client) -> None:
    """Of their own events only."""
    create(api, messages=talk(1))
    create(stranger, messages=talk(2))
    bundles = [independent.verify_bundle(each.get("/v1/sessions/s/proof").text) for each in (api, stranger)]
    assert [len(bundle["events"]) for bundle in bundles] == [2, 3]
    for bundle, client in zip(bundles, (api, stranger), strict=True):
        assert {event["tenant"] for event in bundle["events"]} == {client.headers["x-tenant-id"]}


def test_a_proof_has_no_parameters(api: httpx.Client) -> None:
    """An unknown one is refused, as everywhere."""
    create(api)
    problem(api.get("/v1/sessions/s/proof?version=1"), 400)
