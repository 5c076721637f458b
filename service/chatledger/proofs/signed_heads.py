"""The ledger's Ed25519 key, and tree heads signed with it: C2SP signed-note and tlog-checkpoint.

https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint; docs/ledger-format.md has an example.
"""

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chatledger.errors import RefusedToStart, UnsoundProof
from chatledger.ledger import event_store
from chatledger.ledger.merkle import HASH_BYTES
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors
from chatledger.storage.files import replacing
from chatledger.storage.paths import Location, check_name

log = structlog.get_logger("chatledger")

_ED25519 = b"\x01"
_PRIVATE = "PRIVATE+KEY"
_KEY_ID_BYTES = 4
_SIGNATURE_BYTES = 64
_GROUP = 0o070
_OTHERS = 0o007


class Head(NamedTuple):
    """A tree head: what an auditor keeps. `origin` names the ledger."""

    origin: str
    size: int
    root: bytes


def origin_of(ledger_id: str) -> str:
    """The name of a ledger in its checkpoints and keys."""
    return f"chatledger/{ledger_id}"


class Verifier:
    """A public key with the name that it signs under."""

    def __init__(self, name: str, public: bytes) -> None:
        self.name = name
        self.key_id = hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_KEY_ID_BYTES]
        self._public = public

    @classmethod
    def of(cls, text: str) -> "Verifier":
        """The one that *text* describes: `name+key id in hexadecimal+base64 of 0x01 and the key`.

        Raises:
            UnsoundProof: it describes none.
        """
        try:
            name, key_id, encoded = text.strip().split("+", 2)
            raw = b64decode(encoded, validate=True)
            found = cls(name, raw[1:])
        except ValueError:
            raise UnsoundProof("That is no verifier key.") from None
        if raw[:1] != _ED25519 or len(raw) != 1 + HASH_BYTES or found.key_id.hex() != key_id:
            raise UnsoundProof("That is no Ed25519 verifier key, or it has a typing error.")
        return found

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64encode(_ED25519 + self._public).decode()}"

    def read(self, checkpoint: str) -> Head:
        """The tree head in *checkpoint*, once its signature has been checked.

        Raises:
            UnsoundProof: it is no checkpoint, or has no good signature by this key.
        """
        text, separator, signatures = checkpoint.partition("\n\n")
        if not separator:
            raise UnsoundProof("That is no signed checkpoint.")
        text += "\n"
        if not any(self._signed(text, line) for line in signatures.splitlines()):
            raise UnsoundProof(f"The checkpoint has no good signature by {self.name}+{self.key_id.hex()}.")
        return parse(text)

    def _signed(self, text: str, line: str) -> bool:
        mark, _, rest = line.partition(" ")
        name, _, encoded = rest.rpartition(" ")
        if mark != "—" or name != self.name:
            return False
        try:
            raw = b64decode(encoded, validate=True)
            if raw[:_KEY_ID_BYTES] != self.key_id or len(raw) != _KEY_ID_BYTES + _SIGNATURE_BYTES:
                return False
            Ed25519PublicKey.from_public_bytes(self._public).verify(raw[_KEY_ID_BYTES:], text.encode())
        except (ValueError, InvalidSignature):
            return False
        return True


def parse(text: str) -> Head:
    """The tree head in a checkpoint's text, signed or not.

    Raises:
        UnsoundProof: it has none.
    """
    try:
        origin, size, root = text.split("\n")[:3]
        head = Head(origin, int(size), b64decode(root, validate=True))
    except ValueError:
        raise UnsoundProof("That is no checkpoint.") from None
    if len(head.root) != HASH_BYTES or str(head.size) != size or head.size < 0 or not origin:
        raise UnsoundProof("That is no checkpoint.")
    return head


class Signer:
    """The private key of one ledger."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def new(cls, name: str) -> "Signer":
        """A new key."""
        return cls(name, os.urandom(HASH_BYTES))

    def sign(self, size: int, root: bytes) -> str:
        """The checkpoint of a tree head."""
        name = self.verifier.name
        text = f"{name}\n{size}\n{b64encode(root).decode()}\n"
        signature = b64encode(self.verifier.key_id + self._key.sign(text.encode())).decode()
        return f"{text}\n— {name} {signature}\n"

    def encode(self) -> str:
        """The file's line, in the form that Go's note package keeps keys in."""
        encoded = b64encode(_ED25519 + self._seed).decode()
        return f"{_PRIVATE}+{self.verifier.name}+{self.verifier.key_id.hex()}+{encoded}\n"


def key_path(location: Location, settings: Settings) -> Path:
    """Where the ledger's private key lies: beside it, or where the setting says.

    Raises:
        RefusedToStart: in another locale that would be another file, and another key (`check_name`).
    """
    return Path(check_name(settings.signing_key) if settings.signing_key else location.ledger + ".key")


def has_key(location: Location, settings: Settings) -> bool:
    """Whether there is a key where the ledger's is to be.

    Raises:
        RefusedToStart: this user may not look.
    """
    path = key_path(location, settings)
    with _failures_named(path):
        return path.exists()


def verifier_beside(location: Location, settings: Settings) -> Verifier:
    """The public key of the key that is there, whichever ledger's it is.

    Raises:
        RefusedToStart: it cannot be read, or is none.
    """
    path = key_path(location, settings)
    with _failures_named(path):
        return _parse(path).verifier


def check_start(location: Location, settings: Settings, *, new_key: bool) -> None:
    """Refuse a start without the ledger's key before anything is changed: neither migrated nor built.

    Raises:
        RefusedToStart: as `signer_of`.
    """
    path_of_ledger = Path(location.ledger)
    with sql_errors.storage_failures_named(location.ledger):
        if location.memory or not path_of_ledger.exists() or not path_of_ledger.stat().st_size:
            return
        try:
            connection = ledger_file.open_ledger_reader(location, settings)
        except sql_errors.UnfinishedTransaction:
            return  # only a writer can open it; `signer_of` refuses then
        with closing(connection):
            name, events = origin_of(event_store.identity(connection)), event_store.head(connection).position
    _found(key_path(location, settings), name, location, events=events, new_key=new_key)


def signer_of(location: Location, settings: Settings, ledger_id: str, *, events: int, new_key: bool = False) -> Signer:
    """The ledger's key, for a server. A ledger without events gets one if it has none; one in memory, for the process.

    A ledger of *events* events without its key is refused: heads that were signed with that key were handed out, and
    nobody could tell those of a key that silently took its place from somebody else's.

    Args:
        location: Where the ledger lies.
        settings: They may name the key's file.
        ledger_id: The ledger's identity, which the key signs under.
        events: How many events the ledger has.
        new_key: Make a key although there are events: the operator says that the old one is lost, or never was.

    Raises:
        RefusedToStart: the file is missing, cannot be read, is readable by others, or has another ledger's key; or
            *new_key*, and there is a key.
    """
    name = origin_of(ledger_id)
    if location.memory:
        return Signer.new(name)
    path = key_path(location, settings)
    found = _found(path, name, location, events=events, new_key=new_key)
    with _failures_named(path):
        if found is None:
            return _make(path, name, events)
        _warn_of_group(path)
        return found


def _found(path: Path, name: str, location: Location, *, events: int, new_key: bool) -> Signer | None:
    """The key, or None where one is to be made."""
    with _failures_named(path):
        if not path.exists():
            if events and not new_key:
                raise RefusedToStart(
                    f"The ledger has {events} events, and its signing key {path} is not there. Bring the key back, or "
                    f"name its file by CHATLEDGER_SIGNING_KEY. If it is lost, or the ledger never had one, a new one "
                    f"is made by: chatledger serve --new-signing-key{_found_elsewhere(path, name, location)}"
                )
            return None
        if new_key:
            raise RefusedToStart(f"There is a signing key at {path}: start without --new-signing-key.")
        return _read(path, name)


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RefusedToStart(f"The signing key {path.name} cannot be read or made: {error.strerror}.") from error


def existing_signer(location: Location, settings: Settings, ledger_id: str) -> Signer:
    """The ledger's key, for a command that changes nothing.

    Raises:
        RefusedToStart: the file is missing, cannot be read, is readable by others, or has another ledger's key.
    """
    path, name = key_path(location, settings), origin_of(ledger_id)
    with _failures_named(path):
        if path.exists():
            found = _read(path, name)
            _warn_of_group(path)
            return found
    raise RefusedToStart(
        f"The signing key {path} is not there. Bring it back, or name its file by CHATLEDGER_SIGNING_KEY. If it is "
        f"lost, or the ledger never had one, a new one is made by: chatledger serve "
        f"--new-signing-key{_found_elsewhere(path, name, location)}"
    )


def make_first_key(location: Location, settings: Settings, ledger_id: str, *, events: int) -> None:
    """Give a ledger that has no events yet its key, if it has none; for commands, which sign nothing themselves.

    So a key is there before the first event is: a ledger with events and without a key has lost it.

    Raises:
        RefusedToStart: it cannot be made.
    """
    path = key_path(location, settings)
    with _failures_named(path):
        if not (events or location.memory or path.exists()):
            _make(path, origin_of(ledger_id), events)


def check_no_other_key(location: Location, settings: Settings) -> None:
    """Refuse to begin a ledger where the key of one lies: each ledger has its own, so that key is of one that is gone.

    Raises:
        RefusedToStart: there is a key and no ledger.
    """
    if location.memory:
        return
    path_of_ledger, path = Path(location.ledger), key_path(location, settings)
    try:
        if (path_of_ledger.exists() and path_of_ledger.stat().st_size) or not path.exists():
            return
    except OSError:
        return  # whoever opens them next says what is wrong
    raise RefusedToStart(
        f"There is no ledger at {settings.database_path}, but the signing key {path} of one. Bring the ledger back, or "
        f"move the key away to begin a new ledger."
    )


def missing_key(location: Location, settings: Settings, ledger_id: str) -> str:
    """What is to be done before the next start of a ledger that was just restored; empty where its key is there."""
    path, name = key_path(location, settings), origin_of(ledger_id)
    try:
        if path.exists():
            _read(path, name)
            return ""
    except (OSError, RefusedToStart) as error:
        return f"its signing key cannot be used: {error}"
    return (
        f"its signing key is not in a backup: copy it to {path} before the next start"
        f"{_found_elsewhere(path, name, location)}; if it is lost, start once with --new-signing-key"
    )


def _found_elsewhere(path: Path, name: str, location: Location) -> str:
    """Where in its folder the missing key lies under another name, as it does once the ledger was renamed; or nothing.

    A file is a candidate only if it says that it is this ledger's: TLS and API keys are kept in `*.key` files, too.
    """
    wanted = f"{_PRIVATE}+{name}+".encode()
    for other in sorted(path.parent.glob("*.key")):
        try:
            # Never the ledger itself, should it be named so: closing it would drop SQLite's locks.
            if not other.is_file() or str(other.resolve()) == location.ledger:
                continue
            with other.open("rb") as file:
                if file.read(len(wanted)) == wanted:
                    return f" ({other} is this ledger's key: rename it)"
        except OSError:
            continue
    return ""


def _read(path: Path, name: str) -> Signer:
    mode = path.stat().st_mode
    if mode & _OTHERS:
        raise RefusedToStart(
            f"The signing key {path} is readable by other users. Run chmod 600 {path}, and consider replacing the key."
        )
    signer = _parse(path)
    found = signer.verifier.name
    if found != name:
        raise RefusedToStart(f"The signing key {path.name} is that of {found}, and this ledger is {name}.")
    return signer


def _parse(path: Path) -> Signer:
    try:
        text = path.read_text("ascii").strip().removeprefix(_PRIVATE + "+")
        found, key_id, encoded = text.split("+", 2)
        raw = b64decode(encoded, validate=True)
        signer = Signer(found, raw[1:])
    except ValueError:
        raise RefusedToStart(f"{path.name} is no signing key of chatledger.") from None
    if raw[:1] != _ED25519 or signer.verifier.key_id.hex() != key_id:
        raise RefusedToStart(f"{path.name} is no signing key of chatledger.")
    return signer


def _warn_of_group(path: Path) -> None:
    """Not refused: where a volume belongs to a group (fsGroup of Kubernetes), its files are made readable by it."""
    mode = path.stat().st_mode
    if mode & _GROUP:
        log.warning("signing key readable by group", key=str(path), mode=f"{mode & 0o777:o}")


def _make(path: Path, name: str, events: int) -> Signer:
    signer = Signer.new(name)
    with replacing(path) as file:  # on the disk before a head is handed out: after a power cut another key would sign
        file.write(signer.encode().encode())
    log.info("signing key made", key=str(path), verifier=str(signer.verifier), events=events)
    return signer
