"""The ledger's Ed25519 key, and tree heads signed with it: C2SP signed-note and tlog-checkpoint.

https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint; docs/ledger-format.md has an example.
"""

import hashlib
import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from service.errors import RefusedToStart, UnsoundProof
from service.files import replacing
from service.location import Location, check_name
from service.merkle import HASH_BYTES
from service.settings import Settings

_ED25519 = b"\x01"
_PRIVATE = "PRIVATE+KEY"
_KEY_ID_BYTES = 4
_SIGNATURE_BYTES = 64


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


def signer_of(location: Location, settings: Settings, ledger_id: str) -> Signer:
    """The ledger's key; a new one where there is none yet. For a ledger in memory one that ends with the process.

    Raises:
        RefusedToStart: the file cannot be read, is not ours alone, or has another ledger's key.
    """
    name = origin_of(ledger_id)
    if location.memory and not settings.signing_key:
        return Signer.new(name)
    path = key_path(location, settings)
    try:
        return _read(path, name) if path.exists() else _make(path, name)
    except OSError as error:
        raise RefusedToStart(f"The signing key {path.name} cannot be read or made: {error.strerror}.") from error


def _read(path: Path, name: str) -> Signer:
    if path.stat().st_mode & 0o077:
        raise RefusedToStart(f"Others can read the signing key {path.name}: chmod 600 it, and think of a new one.")
    try:
        text = path.read_text("ascii").strip().removeprefix(_PRIVATE + "+")
        found, key_id, encoded = text.split("+", 2)
        raw = b64decode(encoded, validate=True)
        signer = Signer(found, raw[1:])
    except ValueError:
        raise RefusedToStart(f"{path.name} is no signing key of chatledger.") from None
    if raw[:1] != _ED25519 or signer.verifier.key_id.hex() != key_id:
        raise RefusedToStart(f"{path.name} is no signing key of chatledger.")
    if found != name:
        raise RefusedToStart(f"The signing key {path.name} is that of {found}, and this ledger is {name}.")
    return signer


def _make(path: Path, name: str) -> Signer:
    signer = Signer.new(name)
    with replacing(path) as file:  # on the disk before a head is handed out: after a power cut another key would sign
        file.write(signer.encode().encode())
    return signer
