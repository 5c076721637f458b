"""Evidence: a session's proof bundle, the ledger's signed head, and the tree in the layout of C2SP tlog-tiles."""

import re

import msgspec
from litestar import get
from litestar.params import FromPath

from chatledger.domain.access import Scope
from chatledger.errors import NotFound
from chatledger.http.openapi import operations
from chatledger.http.request import Call
from chatledger.http.response import Answer, not_modified
from chatledger.ledger.tree_store import TILE_HASHES

_TEXT = b"text/plain; charset=utf-8"
_BYTES = b"application/octet-stream"
_FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")

# The number of a tile in groups of three digits, all but the last with an x before it, and the width of a partial one.
# Five groups: the first event of the last tile that has a name is still a number for SQLite.
_PLACE = re.compile(r"/?((?!x000/)(?:x[0-9]{3}/){0,4}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class LedgerHead(msgspec.Struct, frozen=True):
    """The tree head: `root` in hexadecimal, and both again in the signed checkpoint."""

    ledger_id: str
    size: int
    root: str
    checkpoint: str
    public_key: str


@get(
    "/v1/sessions/{session_id:str}/proof",
    operation_id="getSessionProof",
    summary="Get the proof bundle of a session",
    operation_class=operations.GET_SESSION_PROOF,
    access=Scope.AUDIT,
    tags=("Audit",),
)
async def show_proof(request: Call, session_id: FromPath[str]) -> Answer:
    """Get a session's events with inclusion proofs and a signed tree head, also after it was deleted or erased."""
    request.refuse_unknown_query()
    audit = request.audit()
    if request.has_condition() and request.has_version(now := await audit.version(session_id)):
        return not_modified(now)
    version, bundle = await audit.proof(session_id, request.services.log.signer)
    return Answer(bundle, version=version)


@get(
    "/v1/ledger/head",
    operation_id="getLedgerHead",
    summary="Get the head of the ledger",
    operation_class=operations.GET_LEDGER_HEAD,
    access=Scope.AUDIT,
    tags=("Audit",),
)
async def show_head(request: Call) -> Answer:
    """Get the ledger's size, root hash, signed checkpoint and public key."""
    request.refuse_unknown_query()
    log = request.services.log
    size, root, checkpoint = await log.head()
    return Answer(msgspec.json.encode(LedgerHead(log.ledger_id, size, root.hex(), checkpoint, log.public_key)))


@get(
    "/tlog/checkpoint",
    operation_id="getCheckpoint",
    summary="Get the signed checkpoint",
    operation_class=operations.GET_CHECKPOINT,
    access=Scope.OPERATOR,
    tags=("Transparency log",),
)
async def show_checkpoint(request: Call) -> Answer:
    """Get the signed tree head alone, as a C2SP tlog-checkpoint."""
    request.refuse_unknown_query()
    _, _, checkpoint = await request.services.log.head()
    return Answer(checkpoint.encode(), content_type=_TEXT)


@get(
    "/tlog/tile/{level:str}/{place:path}",
    operation_id="getTile",
    summary="Get a tile of the log",
    operation_class=operations.GET_TILE,
    access=Scope.OPERATOR,
    tags=("Transparency log",),
)
async def show_tile(request: Call, level: FromPath[str], place: FromPath[str]) -> Answer:
    """Get a tile of the tree's hashes, or of the log's entries, as in C2SP tlog-tiles. Complete tiles never change."""
    request.refuse_unknown_query()
    number, width = _place(place)
    log = request.services.log
    if level == "entries":
        found = await log.entries(number, width)
    elif re.fullmatch(r"[0-9]|[1-5][0-9]|6[0-3]", level):
        found = await log.tile(int(level), number, width)
    else:
        raise NotFound("tile")
    return Answer(found, content_type=_BYTES, headers=[_FOR_EVER])


def _place(place: str) -> tuple[int, int]:
    """The tile's number and how many of its hashes are wanted."""
    found = _PLACE.fullmatch(place)
    if found is None:
        raise NotFound("tile")
    width = TILE_HASHES if found[2] is None else int(found[2])
    if found[2] is not None and width >= TILE_HASHES:
        raise NotFound("tile")
    return int(found[1].replace("x", "").replace("/", "")), width
