"""The identity provider's public keys: which ones are usable, and how they are kept fresh (RFC 7517).

They come from a file or from an https URL. What cannot be read or makes no sense leaves the last good set in use.
"""

import asyncio
import http.client
import ipaddress
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWK, PyJWTError

from chatledger.errors import Overloaded, SettingsError
from chatledger.settings import Settings
from chatledger.threads import in_thread

log = structlog.get_logger("chatledger")

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""What a token may be signed with, at most: no shared secrets, and one algorithm for each type of key."""

JWKS_BYTES_MAX = 256 * 1024
RSA_BITS_MIN = 2048
FILE_CHECK_S = 2.0
"""How often a file is looked at for changes, at most."""
FETCH_TIMEOUT_S = 5.0
RETRY_S = 5.0
"""How long after a fetch that failed the next one is tried."""
EARLY_FETCH_S = 30.0
"""How often a token with an unknown key may have the keys fetched before their time, at most."""

_ALGORITHM_OF = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_FETCH_CHUNK_BYTES = 16 * 1024


def strict_object(text: bytes) -> dict[str, object]:
    """The JSON object in *text*: UTF-8, no name twice (parsers differ in which one counts), no NaN or Infinity.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(text.decode(), object_pairs_hook=_without_twins, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nests too deep") from None
    if not isinstance(found, dict):
        raise ValueError("is no object")  # noqa: TRY004  # what is wrong is the text
    return found


def _without_twins(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("has a name twice")
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"has {name}")


class KeySet:
    """The usable keys of a JWKS. A key verifies signatures of its own algorithm, never of another one."""

    def __init__(self, text: bytes, algorithms: Sequence[str]) -> None:
        """Read the JWKS in *text*, and pass over keys that are not for signatures of *algorithms*.

        Raises:
            ValueError: it is no JWKS, has no usable key, or two of one id, of which nobody knows the right one.
        """
        self._named: dict[tuple[str, str], PyJWK] = {}
        self._of: dict[str, list[PyJWK]] = {algorithm: [] for algorithm in algorithms}
        members = strict_object(text).get("keys")
        if not isinstance(members, list):
            raise ValueError("has no list of keys")  # noqa: TRY004  # what is wrong is the text
        for key in _usable(members, algorithms):
            if key.key_id is not None:
                if (key.algorithm_name, key.key_id) in self._named:
                    raise ValueError("has two keys of the same id and algorithm")
                self._named[key.algorithm_name, key.key_id] = key
            self._of[key.algorithm_name].append(key)
        if not len(self):
            raise ValueError("has no usable key")

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def named(self, algorithm: str, key_id: str) -> PyJWK | None:
        """The key of that id, if it is one for *algorithm*."""
        return self._named.get((algorithm, key_id))

    def of(self, algorithm: str) -> Sequence[PyJWK]:
        """All keys for *algorithm*."""
        return self._of[algorithm]


def _usable(members: list[object], algorithms: Sequence[str]) -> Iterator[PyJWK]:
    for member in members:
        if isinstance(member, dict) and _is_for_signatures(member):
            kty, crv = member.get("kty"), member.get("crv")
            algorithm = _ALGORITHM_OF.get((kty, crv)) if isinstance(kty, str) and isinstance(crv, str | None) else None
            if algorithm in algorithms and member.get("alg", algorithm) == algorithm:
                try:
                    key = PyJWK(member, algorithm)
                except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
                    continue  # it is damaged; the others can still be good
                if algorithm != "RS256" or key.key.key_size >= RSA_BITS_MIN:
                    yield key


def _is_for_signatures(member: dict[str, object]) -> bool:
    # A private key in a published set is everybody's key.
    operations, key_id = member.get("key_ops", ["verify"]), member.get("kid")
    return (
        "d" not in member
        and member.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and (key_id is None or isinstance(key_id, str))
    )


class Source(Protocol):
    """Where a JWKS comes from."""

    fresh_s: float
    """How long what was loaded is used before it is loaded again."""
    retry_s: float
    early_s: float

    def load(self) -> bytes | None:
        """The JWKS, or None if it is the one of before. Takes its time: never called on the event loop."""


class FileSource:
    """A file, read again when it has changed. Put a new one in place by renaming, as one does."""

    fresh_s = retry_s = early_s = FILE_CHECK_S

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def load(self) -> bytes | None:
        """As `Source.load`."""
        with self._path.open("rb") as file:
            state = os.fstat(file.fileno())
            seen = (state.st_mtime_ns, state.st_size, state.st_ino)
            if seen == self._seen:
                return None
            text = file.read(JWKS_BYTES_MAX + 1)
        self._seen = seen
        return text


class UrlSource:
    """An https URL. No redirect is followed and no proxy asked: the keys come from where the setting says."""

    retry_s = RETRY_S
    early_s = EARLY_FETCH_S

    def __init__(self, url: SplitResult, fresh_s: float) -> None:
        self.fresh_s = fresh_s
        self._tls = url.scheme == "https"
        self._host = url.hostname or ""
        self._usual_port = http.client.HTTPS_PORT if self._tls else http.client.HTTP_PORT
        self._port = url.port or self._usual_port
        self._path = (url.path or "/") + ("?" + url.query if url.query else "")

    def load(self) -> bytes:
        """As `Source.load`, within `FETCH_TIMEOUT_S` for the connection and as much for the rest."""
        held = self._connect()
        # The socket's timeout begins anew with each byte that a slow server sends, from the TLS handshake on.
        watchdog = threading.Timer(FETCH_TIMEOUT_S, _shut, [held])
        watchdog.daemon = True
        watchdog.start()
        try:
            return self._ask(held)
        finally:
            watchdog.cancel()
            held.close()

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((self._host, self._port), FETCH_TIMEOUT_S)
        if not self._tls:
            return plain
        context = ssl.create_default_context()
        return context.wrap_socket(plain, server_hostname=self._host, do_handshake_on_connect=False)

    def _ask(self, held: socket.socket) -> bytes:
        if isinstance(held, ssl.SSLSocket):
            held.do_handshake()
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.default_port = self._usual_port  # for the Host header
        connection.sock = held
        connection.request("GET", self._path, headers={"Accept": "application/json", "Connection": "close"})
        with connection.getresponse() as response:
            if response.status != http.client.OK:
                raise ValueError(f"was answered with status {response.status}")
            text = bytearray()
            while (chunk := response.read(_FETCH_CHUNK_BYTES)) and len(text) <= JWKS_BYTES_MAX:
                text += chunk
            return bytes(text)


def _shut(held: socket.socket) -> None:
    try:
        # Not the TLS socket's own shutdown: behind that, the thread that reads would go on without TLS.
        socket.socket.shutdown(held, socket.SHUT_RDWR)
    except OSError:
        return  # it is closed


def source_of(settings: Settings) -> Source:
    """The file or URL that `CHATLEDGER_JWKS` names.

    Raises:
        SettingsError: it is a URL from which keys must not be taken.
    """
    if "://" not in settings.jwks:
        return FileSource(Path(settings.jwks))
    try:
        url = urlsplit(settings.jwks)
        plain = url.scheme == "http" and _is_loopback(url.hostname or "")
        good = (plain or url.scheme == "https") and url.hostname and url.port != 0
    except ValueError:
        good = False
    if not good or url.username is not None or url.fragment or not settings.jwks.isascii():
        raise SettingsError(
            "CHATLEDGER_JWKS must be a file or an https URL without user and fragment; http only on loopback."
        )
    return UrlSource(url, settings.jwks_cache_s)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Jwks:
    """The set in use, loaded again when it is due: at most one load at a time, in a thread.

    Whoever comes while a load is under way goes on with the set of before, unless that has been due for long.
    """

    def __init__(self, source: Source, algorithms: Sequence[str]) -> None:
        self._source = source
        self._algorithms = algorithms
        self._set: KeySet | None = None
        self._text: bytes | None = None
        self._due = self._early_due = 0.0
        self._failed = False
        self._loading: asyncio.Task[None] | None = None

    def at_once(self) -> KeySet | None:
        """The set, if it can be used without waiting; begins to load it again when it is due."""
        late_s = monotonic() - self._due
        if late_s < 0 or self._set is None:
            return self._set
        if late_s >= self._source.fresh_s and not self._failed:
            return None  # nobody has asked for long: keys may have been withdrawn meanwhile
        self._load()
        return self._set

    async def get(self) -> KeySet:
        """The set, waiting for a load where there is none or it is old.

        Raises:
            Overloaded: there is none to be had.
        """
        found = self.at_once()
        if found is None and monotonic() >= self._due:
            await asyncio.shield(self._load())
            found = self._set
        if found is None:
            raise Overloaded("The identity provider's keys cannot be fetched.", retry_after_s=5)
        return found

    async def renewed(self) -> KeySet:
        """The set after a look for new keys, for a key that is not in it; the same one if that was done just now.

        Raises:
            Overloaded: there is none to be had.
        """
        now = monotonic()
        if self._loading is not None or now >= self._early_due:
            if self._loading is None:
                self._early_due = now + self._source.early_s
            await asyncio.shield(self._load())
        return await self.get()

    def load_now(self) -> None:
        """Load the set at the start, before there is an event loop.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no JWKS with a usable key.
        """
        self._take(self._source.load())
        self._due = monotonic() + self._source.fresh_s

    async def close(self) -> None:
        """Wait for no load any more."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    def _load(self) -> asyncio.Task[None]:
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._reload())
        return self._loading

    async def _reload(self) -> None:
        try:
            await in_thread(lambda: self._take(self._source.load()))
        except Exception as error:  # noqa: BLE001  # whatever it is: those who wait are told, and the next try comes later
            self._due = monotonic() + self._source.retry_s
            said, self._failed = self._failed, True
            if not said:
                log.warning("user keys not loaded", reason=str(error) or type(error).__name__)
        else:
            self._failed = False
            self._due = monotonic() + self._source.fresh_s
        finally:
            self._loading = None

    def _take(self, text: bytes | None) -> None:
        if text is None or text == self._text:
            return  # the same object: what was verified with it stays verified
        if len(text) > JWKS_BYTES_MAX:
            raise ValueError(f"is larger than {JWKS_BYTES_MAX} bytes")
        self._set = KeySet(text, self._algorithms)
        self._text = text
        log.info("user keys loaded", keys=len(self._set))
