"""A saved head is taken in each form that the service gives it in, and anything else is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatledger.errors import UnsoundProof
from chatledger.proofs.head_file import HEAD_BYTES_MAX, read_head
from chatledger.proofs.signed_heads import Head, Signer

NAME = "chatledger/0190a5d0-0000-7000-8000-000000000001"
SIGNER = Signer(NAME, bytes(range(32)))
OTHER = Signer(NAME, bytes(32))
ROOT = bytes(range(32))
HEAD = Head(NAME, 5, ROOT)
CHECKPOINT = SIGNER.sign(5, ROOT)
ANSWER = {
    "ledger_id": NAME.removeprefix("chatledger/"),
    "size": 5,
    "root": ROOT.hex(),
    "checkpoint": CHECKPOINT,
    "public_key": str(SIGNER.verifier),
}
PROBLEM = {"type": "urn:chatledger:problem:unauthenticated", "title": "Unauthenticated", "status": 401}
BUNDLE = {"format": "chatledger-bundle-v1", "public_key": str(SIGNER.verifier), "checkpoint": CHECKPOINT, "events": []}


def saved(folder: Path, content: bytes | str) -> Path:
    """A file with *content*."""
    path = folder / "head"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


FORMS: dict[str, Callable[[str], bytes]] = {
    "as it came": str.encode,
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16, little-endian": lambda text: text.encode("utf-16"),
    "UTF-16, big-endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-16 with CRLF": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "no last line end": lambda text: text.removesuffix("\n").encode(),
    "one line end more": lambda text: (text + "\n").encode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("text", [CHECKPOINT, json.dumps(ANSWER), json.dumps(ANSWER, indent=2)], ids=repr)
def test_each_form_of_a_head_is_read(tmp_path: Path, form: Callable[[str], bytes], text: str) -> None:
    """The checkpoint, and the JSON of `GET /v1/ledger/head`, whatever a shell or an editor did to its line ends."""
    assert read_head(saved(tmp_path, form(text))).read(SIGNER.verifier) == HEAD


def test_other_peoples_signatures_stay_beside_ours(tmp_path: Path) -> None:
    """A witness may have signed too; a member that a later version adds does no harm."""
    witnessed = CHECKPOINT + "— witness.example/w AAAAAAAA\n"
    assert read_head(saved(tmp_path, witnessed)).read(SIGNER.verifier) == HEAD
    assert read_head(saved(tmp_path, json.dumps({**ANSWER, "more": [1]}))).read(SIGNER.verifier) == HEAD


def test_a_head_that_names_another_key_than_the_one_used_is_refused(tmp_path: Path) -> None:
    """Both are named: whoever checks has to find out which one is right."""
    head = read_head(saved(tmp_path, json.dumps(ANSWER)))
    with pytest.raises(UnsoundProof, match="head names the public key") as refused:
        head.read(OTHER.verifier)
    assert str(SIGNER.verifier) in str(refused.value)
    assert str(OTHER.verifier) in str(refused.value)
    forged = {**ANSWER, "checkpoint": OTHER.sign(5, ROOT)}
    with pytest.raises(UnsoundProof, match="no good signature"):
        read_head(saved(tmp_path, json.dumps(forged))).read(SIGNER.verifier)


@pytest.mark.parametrize(
    "change",
    [{"size": 6}, {"root": "00" * 32}, {"ledger_id": "0190a5d0-0000-7000-8000-000000000002"}],
    ids=repr,
)
def test_a_head_that_says_something_else_beside_its_checkpoint_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Whoever reads the JSON would believe what nobody signed."""
    with pytest.raises(UnsoundProof, match="head was changed"):
        read_head(saved(tmp_path, json.dumps({**ANSWER, **change})))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"\n \r\n", "it is empty"),
        (json.dumps({**PROBLEM, "detail": "A credential is needed."}), "error that the server answered: 'A credential"),
        (json.dumps(PROBLEM), "error that the server answered: 'Unauthenticated'"),
        (json.dumps({**PROBLEM, "detail": "x" * 9_000}), "error that the server answered: 'x+"),
        (json.dumps({**PROBLEM, "detail": "\x1b[2J\n"}), r"'\\x1b\[2J\\n'"),
        (json.dumps(BUNDLE), "a proof bundle, to be checked with --bundle"),
        (json.dumps({"size": 5}), "it is other JSON"),
        (json.dumps({**ANSWER, "checkpoint": "no"}), "its `checkpoint` is none"),
        (json.dumps({**ANSWER, "checkpoint": 5}), "JSON of another form"),
        (json.dumps([ANSWER]), "JSON of another form"),
        (json.dumps(CHECKPOINT), "JSON of another form"),
        (json.dumps(ANSWER)[:-9], "it is not whole JSON"),
        ("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + json.dumps(ANSWER), "curl without -i"),
        ("<html><title>502 Bad Gateway</title></html>", "HTML"),
        (str(SIGNER.verifier), "it is a public key, to be given with --public-key"),
        (SIGNER.encode(), "it is a private signing key"),
        (b"SQLite format 3\x00" + bytes(84), "an SQLite file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "no text in UTF-8"),
        (CHECKPOINT.encode("cp1252"), "no text in UTF-8"),
        (b"\xff\xfea", "no text in UTF-8"),
        ("-----BEGIN CERTIFICATE-----\n", "a PEM file"),
        ("clk_aaaaaaaaaaaa_x\n", "an API key"),
        ("Dear diary\n", "some other text"),
        (CHECKPOINT.replace("\n", " "), "some other text"),
        ("x" * (HEAD_BYTES_MAX + 1), f"more than {HEAD_BYTES_MAX} bytes"),
    ],
    ids=repr,
)
def test_what_is_no_head_is_named(tmp_path: Path, content: bytes | str, said: str) -> None:
    """In one line, with the file's name, and nothing of it that a terminal would act on."""
    with pytest.raises(UnsoundProof, match=f"^head holds no signed head: .*{said}") as refused:
        read_head(saved(tmp_path, content))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_a_head_that_is_not_signed_is_refused(tmp_path: Path) -> None:
    """Its text alone says nothing; so does one with only somebody else's signature."""
    for text in (CHECKPOINT.split("\n\n")[0], CHECKPOINT.split("\n\n")[0] + "\n\n", OTHER.sign(5, ROOT)):
        with pytest.raises(UnsoundProof, match=r"^head: "):
            read_head(saved(tmp_path, text)).read(SIGNER.verifier)


def test_line_ends_are_the_only_thing_that_is_mended(tmp_path: Path) -> None:
    """Blanks, other letters and other numbers are not: the signature would not cover them."""
    for text in (CHECKPOINT.replace("\n5\n", "\n5 \n"), CHECKPOINT.replace("\n5\n", "\n6\n"), " " + CHECKPOINT):
        with pytest.raises(UnsoundProof):
            read_head(saved(tmp_path, text)).read(SIGNER.verifier)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A folder, and none."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UnsoundProof, match="cannot be read: "):
            read_head(path)
