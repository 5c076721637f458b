"""Signed heads and the keys that sign them: the forms of C2SP signed-note, and what is refused."""

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from chatledger.errors import RefusedToStart, UnsoundProof
from chatledger.proofs.signed_heads import (
    Head,
    Signer,
    Verifier,
    check_no_other_key,
    existing_signer,
    key_path,
    make_first_key,
    missing_key,
    origin_of,
    signer_of,
)
from chatledger.settings import Settings
from chatledger.storage.paths import Location
from support import documents
from support.independent_verifier import Wrong, parse_checkpoint, parse_verifier_key, verify_checkpoint

VECTOR = {row[0]: row[1] for row in documents.rows(documents.read("docs/ledger-format.md"), "head")}
KEY = VECTOR["verifier key"]
NAME = KEY.split("+", 1)[0]
SIGNATURE = VECTOR["key id and signature"]
CHECKPOINT = f"{NAME}\n5\n{VECTOR['root in Base64']}\n\n— {NAME} {SIGNATURE}\n"
SEED = bytes(range(32))
LEDGER_ID = NAME.removeprefix("chatledger/")


def place(folder: Path, **settings: str) -> tuple[Location, Settings]:
    """A ledger in *folder* that need not be there."""
    found = Settings(database_path=str(folder / "ledger.db"), **settings)
    return Location.of(found), found


def assert_refused(checkpoint: str, key: str = KEY) -> None:
    """Neither the service nor the independent verifier takes it."""
    with pytest.raises(UnsoundProof):
        Verifier.of(key).read(checkpoint)
    with pytest.raises(Wrong):
        verify_checkpoint(checkpoint, key)


# ---------------------------------------------------------------- checkpoints


def test_the_vector_is_signed_and_read() -> None:
    """The page's seed signs the page's head to the byte, and its verifier key reads it; so does the other verifier."""
    signer = Signer(NAME, SEED)
    head = parse_checkpoint(CHECKPOINT)
    assert signer.sign(5, head.root) == CHECKPOINT
    assert str(signer.verifier) == KEY
    assert Verifier.of(KEY).read(CHECKPOINT) == Head(NAME, 5, head.root)
    assert verify_checkpoint(CHECKPOINT, KEY) == head
    assert origin_of(LEDGER_ID) == NAME


@pytest.mark.parametrize("size", [0, 1, 10, 2**53])
def test_a_head_of_any_size_is_read_as_it_was_signed(size: int) -> None:
    """From the empty tree on."""
    signer = Signer(NAME, SEED)
    assert signer.verifier.read(signer.sign(size, bytes(32))) == Head(NAME, size, bytes(32))
    assert verify_checkpoint(signer.sign(size, bytes(32)), KEY).size == size


def test_a_wrong_signature_is_refused() -> None:
    """One with any other bit, and a head that says anything else than what was signed."""
    at = CHECKPOINT.index(SIGNATURE) + 20
    assert_refused(CHECKPOINT[:at] + ("A" if CHECKPOINT[at] != "A" else "B") + CHECKPOINT[at + 1 :])
    assert_refused(CHECKPOINT.replace("\n5\n", "\n6\n"))
    assert_refused(CHECKPOINT.replace(VECTOR["root in Base64"], VECTOR["root in Base64"].replace("t", "u", 1)))
    assert_refused(CHECKPOINT.replace(NAME, NAME[:-1] + "2"))


@pytest.mark.parametrize("other", [Signer(NAME, bytes(32)), Signer("chatledger/other", SEED)], ids=["seed", "name"])
def test_another_keys_signature_is_refused(other: Signer) -> None:
    """Another key under the same name, and the same key under another name."""
    assert_refused(CHECKPOINT, str(other.verifier))
    assert_refused(other.sign(5, parse_checkpoint(CHECKPOINT).root))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "",
        lambda text: text.split("\n\n")[0],
        lambda text: text.split("\n\n")[0] + "\n\n",
        lambda text: text.replace("—", "-"),
        lambda text: text.replace(SIGNATURE, SIGNATURE[:-4]),
        lambda text: text.replace(SIGNATURE, SIGNATURE[:-1] + "!"),
        lambda text: text.replace(f"— {NAME}", f"— {NAME}x"),
        lambda text: text.replace("\n5\n", "\n05\n"),
        lambda text: text.replace("\n5\n", "\nfive\n"),
        lambda text: text.replace("\n", "\r\n"),
    ],
)
def test_a_checkpoint_of_another_form_is_refused(spoil: Callable[[str], str]) -> None:
    """Nothing, no signature, the wrong dash, a short or misspelt signature, a size in other digits."""
    assert_refused(spoil(CHECKPOINT))


@pytest.mark.parametrize(
    "text", ["{name}\n05\n{root}\n", "{name}\n-1\n{root}\n", "{name}\n5\nAAAA\n", "\n5\n{root}\n", "x\n"]
)
def test_a_signature_does_not_excuse_the_form(text: str) -> None:
    """A head that its own key signed is refused where it is none."""
    signer = Signer(NAME, SEED)
    signed = text.format(name=NAME, root=VECTOR["root in Base64"])
    raw = signer.verifier.key_id + signer._key.sign(signed.encode())
    assert_refused(f"{signed}\n— {NAME} {b64encode(raw).decode()}\n")


def test_other_peoples_signatures_beside_ours_are_ignored() -> None:
    """A signed note can have several, such as a witness's; one of ours has to be good."""
    witnessed = CHECKPOINT + f"— witness.example/w {SIGNATURE}\n"
    assert Verifier.of(KEY).read(witnessed).size == 5
    assert verify_checkpoint(witnessed, KEY).size == 5
    assert_refused(witnessed.replace(f"— {NAME} Tpm", f"— {NAME} Upm"))


# ---------------------------------------------------------------- verifier keys


def test_a_verifier_key_is_written_as_it_is_read() -> None:
    """A line end behind it does no harm."""
    assert str(Verifier.of(KEY + "\n")) == KEY
    assert parse_verifier_key(KEY)[0] == Verifier.of(KEY).name == NAME


@pytest.mark.parametrize(
    "key",
    [
        "",
        NAME,
        KEY.replace("+4e998b7b+", "+"),
        KEY.replace("4e998b7b", "4e998b7c"),
        KEY.replace("4e998b7b", "4E998B7B"),
        KEY.replace("0190a5d0", "0190a5d1"),
        KEY.replace("AQOhB7", "AQOhB8"),
        KEY.replace("AQOh", "AgOh"),
        KEY[:-4],
        KEY[:-1] + "!",
    ],
)
def test_a_verifier_key_with_a_typing_error_is_refused(key: str) -> None:
    """Its id is a checksum over name and key."""
    with pytest.raises(UnsoundProof):
        Verifier.of(key)
    with pytest.raises(Wrong):
        parse_verifier_key(key)


# ---------------------------------------------------------------- the key file


def test_a_ledger_gets_a_key_for_its_owner_alone(tmp_path: Path) -> None:
    """It is made once, beside the ledger, with mode 0600, and found again."""
    location, settings = place(tmp_path)
    made = signer_of(location, settings, LEDGER_ID, events=0)
    path = key_path(location, settings)
    assert path == tmp_path / "ledger.db.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db.key"]
    found = signer_of(location, settings, LEDGER_ID, events=0)
    assert str(found.verifier) == str(made.verifier)
    assert found.verifier.read(made.sign(1, bytes(32))).size == 1


def test_each_ledger_gets_another_key(tmp_path: Path) -> None:
    """Keys are random."""
    one = signer_of(*place(tmp_path, signing_key=str(tmp_path / "one")), LEDGER_ID, events=0)
    other = signer_of(*place(tmp_path, signing_key=str(tmp_path / "other")), LEDGER_ID, events=0)
    assert one.encode() != other.encode()


def test_a_key_that_was_half_made_does_not_stop_the_next_try(tmp_path: Path) -> None:
    """What a crash left is written over, and is no key itself."""
    (tmp_path / "ledger.db.key.unfinished").write_text("PRIVATE+KEY+half")
    signer_of(*place(tmp_path), LEDGER_ID, events=0)
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db.key"]


def test_the_key_lies_where_the_setting_says(tmp_path: Path) -> None:
    """So that it can be kept apart from the ledger."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    signer_of(*place(tmp_path, signing_key=str(elsewhere / "k")), LEDGER_ID, events=0)
    assert (elsewhere / "k").read_text().startswith(f"PRIVATE+KEY+{NAME}+")


def test_the_file_has_the_form_of_the_page(tmp_path: Path) -> None:
    """`PRIVATE+KEY+name+key id+Base64 of (0x01 || seed)`."""
    location, settings = place(tmp_path)
    path = key_path(location, settings)
    path.write_text(f"PRIVATE+KEY+{NAME}+4e998b7b+{b64encode(bytes([1]) + SEED).decode()}\n")
    path.chmod(0o600)
    signer = signer_of(location, settings, LEDGER_ID, events=0)
    assert str(signer.verifier) == KEY
    assert signer.encode() == path.read_text()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644, 0o666, 0o777])
def test_a_key_that_other_users_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever can read it can sign; the file and the remedy are named."""
    location, settings = place(tmp_path)
    signer_of(location, settings, LEDGER_ID, events=0)
    path = key_path(location, settings)
    path.chmod(mode)
    with pytest.raises(RefusedToStart, match=f"{path} is readable by other users. Run chmod 600 {path}"):
        signer_of(location, settings, LEDGER_ID, events=0)


@pytest.mark.parametrize("mode", [0o640, 0o660, 0o440, 0o620, 0o670])
def test_a_key_that_the_group_can_read_is_taken_with_a_warning(tmp_path: Path, mode: int) -> None:
    """As on a volume of Kubernetes with fsGroup, where the second start finds it so."""
    location, settings = place(tmp_path)
    made = signer_of(location, settings, LEDGER_ID, events=0)
    path = key_path(location, settings)
    path.chmod(mode)
    for found in (signer_of, existing_signer):
        with capture_logs() as said:
            more = {"events": 3} if found is signer_of else {}
            assert found(location, settings, LEDGER_ID, **more).encode() == made.encode()  # type: ignore[operator]
        expected = {"event": "signing key readable by group", "key": str(path), "mode": f"{mode:o}"}
        assert said == [{**expected, "log_level": "warning"}]


def test_a_key_of_its_owner_alone_is_no_reason_to_warn(tmp_path: Path) -> None:
    """The control of the one above."""
    signer_of(*place(tmp_path), LEDGER_ID, events=0)
    with capture_logs() as said:
        signer_of(*place(tmp_path), LEDGER_ID, events=3)
    assert said == []


def test_another_ledgers_key_is_refused(tmp_path: Path) -> None:
    """A head under another name would be no head of this ledger."""
    location, settings = place(tmp_path)
    signer_of(location, settings, LEDGER_ID, events=0)
    with pytest.raises(RefusedToStart, match=f"is that of {NAME}, and this ledger is chatledger/other"):
        signer_of(location, settings, "other", events=0)


@pytest.mark.parametrize("text", ["", "PRIVATE+KEY+", "not a key\n", "é", f"PRIVATE+KEY+{KEY}\n"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    """It is not written over. A public key in its place is none either, for its id is another."""
    location, settings = place(tmp_path)
    path = key_path(location, settings)
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(RefusedToStart, match="is no signing key"):
        signer_of(location, settings, LEDGER_ID, events=0)
    assert path.read_text() == text


def test_a_ledger_in_memory_has_a_key_that_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is made."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(database_path=":memory:")
    signer_of(Location.of(settings), settings, LEDGER_ID, events=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("elsewhere", ["", "k"])
def test_in_memory_the_keys_file_is_not_used(tmp_path: Path, elsewhere: str) -> None:
    """Its ledger is another one at each start, so that a file could be good for one start alone."""
    settings = Settings(database_path=":memory:", signing_key=str(tmp_path / elsewhere) if elsewhere else "")
    for ledger_id in ("first", "second"):
        signer = signer_of(Location.of(settings), settings, ledger_id, events=0)
        assert signer.verifier.name == origin_of(ledger_id)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- a key that is missing


def test_a_ledger_with_events_gets_no_key_by_itself(tmp_path: Path) -> None:
    """Its events may have been signed with one that is lost; the expected file and both ways on are named."""
    location, settings = place(tmp_path)
    for attempt in (
        lambda: signer_of(location, settings, LEDGER_ID, events=12),
        lambda: existing_signer(location, settings, LEDGER_ID),
    ):
        with pytest.raises(RefusedToStart) as refused:
            attempt()
        for word in (str(tmp_path / "ledger.db.key"), "CHATLEDGER_SIGNING_KEY", "chatledger serve --new-signing-key"):
            assert word in str(refused.value)
        assert "never had one" in str(refused.value)
        assert "\n" not in str(refused.value)
    make_first_key(location, settings, LEDGER_ID, events=12)
    assert not list(tmp_path.iterdir())


def test_a_new_key_is_made_only_where_it_is_asked_for_and_none_is_there(tmp_path: Path) -> None:
    """With a line in the log that has its verifier key; the option may not be left on."""
    location, settings = place(tmp_path)
    with capture_logs() as said:
        made = signer_of(location, settings, LEDGER_ID, events=12, new_key=True)
    path = str(tmp_path / "ledger.db.key")
    expected = {"event": "signing key made", "key": path, "verifier": str(made.verifier), "events": 12}
    assert said == [{**expected, "log_level": "info"}]
    assert signer_of(location, settings, LEDGER_ID, events=12).encode() == made.encode()
    with pytest.raises(RefusedToStart, match="start without --new-signing-key"):
        signer_of(location, settings, LEDGER_ID, events=12, new_key=True)


def test_a_ledger_without_events_gets_its_first_key(tmp_path: Path) -> None:
    """Also by a command, which leaves one alone that is there."""
    location, settings = place(tmp_path)
    make_first_key(location, settings, LEDGER_ID, events=0)
    first = key_path(location, settings).read_text()
    make_first_key(location, settings, LEDGER_ID, events=0)
    assert key_path(location, settings).read_text() == first
    assert signer_of(location, settings, LEDGER_ID, events=0).encode() == first


def test_a_key_under_another_name_is_named(tmp_path: Path) -> None:
    """As behind a renamed ledger; other keys in the folder are not, whatever they are for."""
    location, settings = place(tmp_path)
    signer_of(*place(tmp_path, signing_key=str(tmp_path / "before.db.key")), LEDGER_ID, events=0)
    signer_of(*place(tmp_path, signing_key=str(tmp_path / "a.key")), "other", events=0)
    (tmp_path / "api.key").write_text("clk_aaaaaaaaaaaa_bbbb\n")
    (tmp_path / "tls.key").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.key").mkdir()
    with pytest.raises(RefusedToStart) as refused:
        signer_of(location, settings, LEDGER_ID, events=1)
    assert f"({tmp_path / 'before.db.key'} is this ledger's key: rename it)" in str(refused.value)
    assert "a.key is" not in str(refused.value)
    assert "before.db.key is this ledger's key" in missing_key(location, settings, LEDGER_ID)


def test_a_ledger_that_is_named_like_a_key_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing any handle on it would drop SQLite's locks."""
    settings = Settings(database_path=str(tmp_path / "my.key"))
    (tmp_path / "my.key").write_text(f"PRIVATE+KEY+{NAME}+")
    opened: list[str] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *more: opened.append(self.name) or real(self, *more))
    with pytest.raises(RefusedToStart) as refused:
        signer_of(Location.of(settings), settings, LEDGER_ID, events=1)
    assert opened == []
    assert "is this ledger's key" not in str(refused.value)


def test_a_key_without_its_ledger_stops_a_new_one(tmp_path: Path) -> None:
    """It is the key of a ledger that is gone: a new one in its place would hide that, and could not use the key."""
    location, settings = place(tmp_path)
    check_no_other_key(location, settings)
    make_first_key(location, settings, LEDGER_ID, events=0)
    for content in (None, ""):
        if content is not None:
            (tmp_path / "ledger.db").write_text(content)
        with pytest.raises(RefusedToStart, match=r"There is no ledger at .*, but the signing key .* of one"):
            check_no_other_key(location, settings)
    (tmp_path / "ledger.db").write_text("x")
    check_no_other_key(location, settings)


def test_what_is_to_be_done_about_the_key_of_a_restored_ledger(tmp_path: Path) -> None:
    """Nothing where it is there; else where it is to be copied to, and what if it is lost."""
    location, settings = place(tmp_path)
    assert f"copy it to {tmp_path / 'ledger.db.key'}" in missing_key(location, settings, LEDGER_ID)
    assert "--new-signing-key" in missing_key(location, settings, LEDGER_ID)
    make_first_key(location, settings, LEDGER_ID, events=0)
    assert missing_key(location, settings, LEDGER_ID) == ""
    assert "is that of" in missing_key(location, settings, "other")
