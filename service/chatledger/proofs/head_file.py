"""A signed head out of a file: the checkpoint itself, or the answer of `GET /v1/ledger/head` that has it.

Files of this kind are kept for years and carried from machine to machine, so that what editors and shells do to a text
on the way is undone: a byte order mark (UTF-16 too, which older PowerShells write), CRLF, a missing last line end. A
signature covers the text with LF alone, so nothing can be passed off that way. Anything else is refused, and named.
"""

import codecs
from pathlib import Path

import msgspec

from chatledger.errors import UnsoundProof
from chatledger.proofs.signed_heads import Head, Verifier, parse

HEAD_BYTES_MAX = 64 * 1024
"""A head has some 300 bytes, its JSON some 700, and each signature of others 200 more."""

_KINDS = (
    ("SQLite format 3\0", "an SQLite file"),
    ("PRIVATE+KEY+", "a private signing key: never hand that out"),
    ("HTTP/", "an HTTP answer with its headers: leave them out (curl without -i)"),
    ("<", "HTML or XML"),
    ("-----BEGIN ", "a PEM file"),
    ("clk_", "an API key"),
)


class _Saved(msgspec.Struct, frozen=True):
    """The members of the JSON documents that may have been saved as a head; those of others are passed over."""

    checkpoint: str | None = None
    public_key: str | None = None
    size: int | None = None
    root: str | None = None
    ledger_id: str | None = None
    format: str | None = None
    type: str | None = None
    title: str | None = None
    detail: str | None = None


class SavedHead(msgspec.Struct, frozen=True):
    """A head as its file has it, not yet checked; `public_key` is the one that the file names, if it names one."""

    name: str
    checkpoint: str
    public_key: str | None = None

    def read(self, verifier: Verifier) -> Head:
        """The head, once its signature by *verifier* has been checked.

        Raises:
            UnsoundProof: it has none, or the file names another key.
        """
        if self.public_key is not None and self.public_key != str(verifier):
            raise UnsoundProof(
                f"{self.name} names the public key {self.public_key!r}, and the one to check it with is {verifier}."
            )
        try:
            return verifier.read(self.checkpoint)
        except UnsoundProof as error:
            raise UnsoundProof(f"{self.name}: {error}") from None


def read_head(file: Path) -> SavedHead:
    """The head in *file*.

    Raises:
        UnsoundProof: it has none; the message says what it has.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(HEAD_BYTES_MAX + 1)
    except OSError as error:
        raise UnsoundProof(f"{file.name} cannot be read: {error.strerror}.") from error
    if len(raw) > HEAD_BYTES_MAX:
        raise UnsoundProof(f"{file.name} holds no signed head: it has more than {HEAD_BYTES_MAX} bytes.")
    text = _decoded(raw)
    if text is None:
        raise UnsoundProof(f"{file.name} holds no signed head: it is no text in UTF-8.")
    if text.lstrip().startswith(("{", "[", '"')):
        return _of_json(file.name, text)
    text = text.replace("\r\n", "\n")
    try:
        parse(text)
    except UnsoundProof:
        raise UnsoundProof(f"{file.name} holds no signed head: {_kind(text)}.") from None
    return SavedHead(file.name, text)


def _decoded(raw: bytes) -> str | None:
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return raw.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        return None


def _of_json(name: str, text: str) -> SavedHead:
    try:
        found = msgspec.json.decode(text, type=_Saved)
    except msgspec.ValidationError:
        raise UnsoundProof(f"{name} holds no signed head: it is JSON of another form.") from None
    except msgspec.DecodeError:
        raise UnsoundProof(f"{name} holds no signed head: it is not whole JSON.") from None
    if found.format is not None:
        raise UnsoundProof(f"{name} holds no signed head: it is a proof bundle, to be checked with --bundle.")
    if found.checkpoint is None:
        said = found.detail or found.title
        kind = f"it is an error that the server answered: {said!r:.200}" if found.type and said else "it is other JSON"
        raise UnsoundProof(f"{name} holds no signed head: {kind}.")
    try:
        head = parse(found.checkpoint)
    except UnsoundProof:
        raise UnsoundProof(f"{name} holds no signed head: its `checkpoint` is none.") from None
    said_beside = (found.size, found.root, found.ledger_id)
    signed = (head.size, head.root.hex(), head.origin.rpartition("/")[2])
    if any(beside is not None and beside != inside for beside, inside in zip(said_beside, signed, strict=True)):
        raise UnsoundProof(f"{name} was changed: its checkpoint does not say what stands beside it.")
    return SavedHead(name, found.checkpoint, found.public_key)


def _kind(text: str) -> str:
    """What a text that is no checkpoint may be instead."""
    if not text.strip():
        return "it is empty"
    for beginning, kind in _KINDS:
        if text.startswith(beginning):
            return f"it is {kind}"
    try:
        Verifier.of(text)
    except UnsoundProof:
        return "it is some other text"
    return "it is a public key, to be given with --public-key"
