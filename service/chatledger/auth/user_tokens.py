"""User tokens: JWTs of an existing identity provider, checked by RFC 7519 as narrowed by RFC 8725.

PyJWT checks signatures. Forms and claims are checked here: PyJWT takes a padded part, a name that is there twice,
`"exp": "12"` and an `exp` of true, and reads the clock itself.
"""

import hashlib
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from typing import NamedTuple

from jwt import PyJWK, PyJWS, PyJWTError

from chatledger.auth.jwks import ALGORITHMS, FileSource, Jwks, KeySet, source_of, strict_object
from chatledger.domain.access import USER_SCOPES, Caller
from chatledger.domain.ids import is_id
from chatledger.domain.timestamps import now_us
from chatledger.errors import SettingsError, Unauthenticated
from chatledger.settings import Settings

TOKEN_BYTES_MAX = 8 * 1024
VERIFIED_MAX = 10_000
"""How many verified tokens are remembered: a signature costs more than all else of a request on the event loop."""

_TYPES = frozenset({"jwt", "at+jwt"})
_KEY_HEADERS = ("jwk", "jku", "x5u", "x5c")
_US_PER_S = 1_000_000
_TIME_MAX_S = 253_402_300_799  # the last second of the year 9999

_is_token = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
_is_key_id = re.compile(r"[\x21-\x7e]{1,255}").fullmatch
# Base64 has slashes too, so one of them does not make a path.
_is_place = re.compile(r"[/.~].*|.*(\.\.|:/|\\|%2[ef]).*", re.IGNORECASE).fullmatch
# OpenID Connect has subjects in ASCII. The user is the actor of events, and so in the records that proofs cover, which
# have to be the same bytes whoever writes JSON (docs/ledger-format.md).
_is_user = re.compile(r"[\x21-\x7e]{1,255}").fullmatch


class _Header(NamedTuple):
    algorithm: str
    key_id: str | None


def looks_like_token(text: str) -> bool:
    """Whether *text* has the form of a JWT, three parts in base64url: no API key has."""
    return _is_token(text) is not None


class TokenVerifier:
    """Says who is calling with a token, or why it is not good."""

    def __init__(self, settings: Settings) -> None:
        """Read the settings, and the keys if they are in a file; those at a URL are fetched when first needed.

        Raises:
            SettingsError: they are not enough to tell a good token, or the file has no usable key.
        """
        self._settings = settings
        self._algorithms = _algorithms(settings)
        self._leeway_us = settings.jwt_leeway_s * _US_PER_S
        self._jws = PyJWS(self._algorithms)
        self._keys = _keys(settings, self._algorithms) if settings.jwks else None
        self._verified: OrderedDict[bytes, tuple[Caller, int]] = OrderedDict()
        self._verified_with: KeySet | None = None

    async def verify(self, token: str) -> Caller:
        """The user whom *token* names, who reaches that user's sessions only.

        Raises:
            Unauthenticated: the token is not good; the message says why, and holds nothing of it.
            Overloaded: the identity provider's keys cannot be fetched.
        """
        if self._keys is None:
            raise Unauthenticated("User tokens are not accepted here.")
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated(f"The token is longer than {TOKEN_BYTES_MAX} bytes.")
        if not token.isascii():
            raise Unauthenticated("The token is not three parts in base64url, joined by dots.")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._recall(digest, self._keys)
        if known is not None:
            return known
        header = self._read_header(token)
        keys, key = await self._find(self._keys, header)
        caller, end_us = self._read_claims(self._check_signature(token, header, key))
        self._remember(digest, keys, caller, end_us)
        return caller

    async def close(self) -> None:
        """Stop fetching keys."""
        if self._keys is not None:
            await self._keys.close()

    def _recall(self, digest: bytes, keys: Jwks) -> Caller | None:
        if keys.at_once() is not self._verified_with:
            return None
        known = self._verified.get(digest)
        if known is None:
            return None
        if now_us() >= known[1]:
            del self._verified[digest]
            return None
        self._verified.move_to_end(digest)
        return known[0]

    def _remember(self, digest: bytes, keys: KeySet, caller: Caller, end_us: int) -> None:
        if keys is not self._verified_with:
            self._verified.clear()  # the key of any of them may have been withdrawn
            self._verified_with = keys
        self._verified[digest] = (caller, end_us)
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)

    def _read_header(self, token: str) -> _Header:
        if token.count(".") == 4:  # noqa: PLR2004  # RFC 7516 section 7.1
            raise Unauthenticated("The token is encrypted; only signed ones are accepted.")
        if not looks_like_token(token):
            raise Unauthenticated("The token is not three parts in base64url, joined by dots.")
        if not all(map(_is_canonical, token.split("."))):
            raise Unauthenticated("A part of the token is not canonical base64url.")
        try:
            header = strict_object(_decode(token[: token.index(".")]))
        except ValueError:
            raise Unauthenticated("The token's header is not a JSON object with each name once.") from None
        _check_extensions(header)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise Unauthenticated(f"The token is not signed with {' or '.join(self._algorithms)}.")
        if "kid" not in header:
            return _Header(algorithm, None)
        if not isinstance(key_id, str) or not _is_key_id(key_id):
            raise Unauthenticated("The token's key id is not a string of 1 to 255 visible ASCII characters.")
        return _Header(algorithm, key_id)

    async def _find(self, jwks: Jwks, header: _Header) -> tuple[KeySet, PyJWK]:
        """The key that the token was signed with, and the set that it is in. The id is looked up, never followed.

        Without an id it is the key for the algorithm, if the provider has one such key only.
        """
        keys = await jwks.get()
        if header.key_id is None:
            fitting = keys.of(header.algorithm)
            if len(fitting) != 1:
                raise Unauthenticated("The token names no key, and not exactly one key fits its algorithm.")
            return keys, fitting[0]
        key = keys.named(header.algorithm, header.key_id)
        if key is None and _is_place(header.key_id):
            raise Unauthenticated("The token's key id is a path or URL, and not the id of a key.")
        if key is None:
            keys = await jwks.renewed()
            key = keys.named(header.algorithm, header.key_id)
        if key is None:
            raise Unauthenticated("The identity provider has no key of the token's key id and algorithm.")
        return keys, key

    def _check_signature(self, token: str, header: _Header, key: PyJWK) -> bytes:
        try:
            signed = self._jws.decode(token, key, [header.algorithm])
        except PyJWTError:
            raise Unauthenticated("The token's signature is wrong.") from None
        return bytes(signed)

    def _read_claims(self, payload: bytes) -> tuple[Caller, int]:
        """The caller, and the end of the token's time in microseconds."""
        try:
            claims = strict_object(payload)
        except ValueError:
            raise Unauthenticated("The token's claims are not a JSON object with each name once.") from None
        settings = self._settings
        if claims.get("iss") != settings.jwt_issuer:
            raise Unauthenticated("The token's issuer (iss) is not the configured one.")
        if not _is_for(claims.get("aud"), settings.jwt_audience):
            raise Unauthenticated("The token's audience (aud) does not include this service.")
        end_us = self._check_times(claims)
        tenant, user = claims.get(settings.jwt_tenant_claim), claims.get(settings.jwt_user_claim)
        if not isinstance(tenant, str) or not is_id(tenant):
            raise Unauthenticated("The token's tenant claim is missing or not a valid id.")
        if not isinstance(user, str) or not _is_user(user):
            raise Unauthenticated(
                "The token's user claim is missing or not a string of 1 to 255 visible ASCII characters."
            )
        actor = f"user:{user}"
        return Caller(actor=actor, credential="token", scopes=USER_SCOPES, tenant_id=tenant, user_id=user), end_us

    def _check_times(self, claims: dict[str, object]) -> int:
        if "exp" not in claims:
            raise Unauthenticated("The token does not expire: it has no exp.")
        now, times = now_us(), {}
        for name in ("exp", "nbf", "iat"):
            if name in claims:
                times[name] = _time_us(name, claims[name])
        end_us = times.pop("exp") + self._leeway_us
        if now >= end_us:
            raise Unauthenticated("The token has expired (exp).")
        for name, time_us in times.items():
            if now < time_us - self._leeway_us:
                raise Unauthenticated(f"The token is not valid yet ({name}).")
        return end_us


def _algorithms(settings: Settings) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(name.strip() for name in settings.jwt_algorithms.split(",")))
    if not set(chosen) <= set(ALGORITHMS):
        raise SettingsError("CHATLEDGER_JWT_ALGORITHMS must be some of RS256, ES256, EdDSA, separated by commas.")
    return chosen


def _keys(settings: Settings, algorithms: tuple[str, ...]) -> Jwks:
    if not settings.jwt_issuer or not settings.jwt_audience:
        raise SettingsError("CHATLEDGER_JWKS needs CHATLEDGER_JWT_ISSUER and CHATLEDGER_JWT_AUDIENCE beside it.")
    source = source_of(settings)
    keys = Jwks(source, algorithms)
    if isinstance(source, FileSource):
        try:
            keys.load_now()
        except OSError as error:
            raise SettingsError(f"The file of CHATLEDGER_JWKS cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise SettingsError(f"The file of CHATLEDGER_JWKS is of no use: {error}.") from error
    return keys


def _check_extensions(header: dict[str, object]) -> None:
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise Unauthenticated("The token's type (typ) is neither JWT nor at+jwt.")
    if "crit" in header or "b64" in header:
        raise Unauthenticated("The token needs an extension (crit, b64); none is understood here.")
    if any(name in header for name in _KEY_HEADERS):
        raise Unauthenticated("The token brings or points to a key of its own (jwk, jku, x5u, x5c).")
    if any(name in header for name in ("enc", "zip", "cty")):
        raise Unauthenticated("The token is encrypted, compressed or nested (enc, zip, cty).")


def _decode(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _is_canonical(part: str) -> bool:
    # Spare bits that are not 0 would make several texts of one token.
    try:
        return urlsafe_b64encode(_decode(part)).rstrip(b"=") == part.encode()
    except ValueError:
        return False


def _is_for(audience: object, wanted: str) -> bool:
    named = audience if isinstance(audience, list) else [audience]
    return all(isinstance(name, str) for name in named) and wanted in named


def _time_us(name: str, value: object) -> int:
    """A NumericDate (RFC 7519 section 2) in microseconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _TIME_MAX_S:
        raise Unauthenticated(f"The token's {name} is not a number of seconds since 1970.")
    return math.floor(value * _US_PER_S)
