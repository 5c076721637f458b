"""Tokens of an identity provider, good and bad: each bad one with the reason for which it is refused.

All are signed for the keys in `SET`, at `NOW_S`. But for one thing each is a good token.
"""

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from support.identity_provider import ABSENT, SigningKey, b64, ec_key, ed_key, jwks, overlay, part, rsa_key, sign

ISSUER = "https://login.example/"
AUDIENCE = "chatledger"
NOW_S = 1_800_000_000
LEEWAY_S = 30
LONGEST = 8192

RSA, EC, EC_TWIN, ED = rsa_key("rsa-1"), ec_key("ec-1"), ec_key("ec-2"), ed_key("ed-1")
EVIL_RSA, EVIL_EC, EVIL_ED = rsa_key("rsa-1"), ec_key("ec-1"), ed_key("ed-1")
WEAK = rsa_key("rsa-weak", 1024)
P384, K1 = ec_key("ec-384", ec.SECP384R1()), ec_key("ec-k1", ec.SECP256K1())
FOR_ENCRYPTION, FOR_SIGNING, OF_ANOTHER = ed_key("ed-enc"), ed_key("ed-sign"), ed_key("ed-other")
SPLIT, PUBLISHED, ODD_USE = ed_key("ed-split"), ed_key("ed-published"), ed_key("ed-odd")
SECRET = b"0123456789abcdef0123456789abcdef"
SET = jwks(
    "no key",  # type: ignore[arg-type]  # a set may have anything in it
    {"kty": "oct", "kid": "hs", "k": b64(SECRET), "alg": "HS256"},
    {"kty": ["RSA"], "kid": "odd"},
    {"kty": "RSA", "crv": ["P-256"], "kid": "odd"},
    {"kty": "RSA", "kid": "rsa-half", "e": "AQAB"},
    {"kty": "EC", "crv": "P-256", "kid": "ec-off", "x": b64(bytes(32)), "y": b64(bytes(32))},
    {"kty": "OKP", "crv": "Ed25519", "kid": "ed-short", "x": b64(bytes(31))},
    WEAK.jwk(),
    P384.jwk(alg=ABSENT),
    K1.jwk(alg=ABSENT),
    FOR_ENCRYPTION.jwk(use="enc"),
    FOR_SIGNING.jwk(key_ops=["sign"]),
    ODD_USE.jwk(key_ops="verify"),
    OF_ANOTHER.jwk(alg="ES256"),
    SPLIT.jwk(kid=7),
    PUBLISHED.jwk(d=PUBLISHED.secret()),
    RSA.jwk(key_ops=["verify"], x5c=["ignored"]),
    EC.jwk(),
    EC_TWIN.jwk(alg=ABSENT, use=ABSENT),
    ED.jwk(),
)

FORM = "The token is not three parts in base64url, joined by dots."
LONG = "The token is longer than 8192 bytes."
ENCRYPTED = "The token is encrypted; only signed ones are accepted."
CANONICAL = "A part of the token is not canonical base64url."
HEADER = "The token's header is not a JSON object with each name once."
TYPE = "The token's type (typ) is neither JWT nor at+jwt."
EXTENSION = "The token needs an extension (crit, b64); none is understood here."
OWN_KEY = "The token brings or points to a key of its own (jwk, jku, x5u, x5c)."
NESTED = "The token is encrypted, compressed or nested (enc, zip, cty)."
ALGORITHM = "The token is not signed with RS256 or ES256 or EdDSA."
KEY_ID = "The token's key id is not a string of 1 to 255 visible ASCII characters."
PLACE = "The token's key id is a path or URL, and not the id of a key."
NO_KEY = "The identity provider has no key of the token's key id and algorithm."
NO_KEY_ID = "The token names no key, and not exactly one key fits its algorithm."
SIGNATURE = "The token's signature is wrong."
CLAIMS = "The token's claims are not a JSON object with each name once."
ISS = "The token's issuer (iss) is not the configured one."
AUD = "The token's audience (aud) does not include this service."
NO_EXP = "The token does not expire: it has no exp."
EXPIRED = "The token has expired (exp)."
TENANT = "The token's tenant claim is missing or not a valid id."
USER = "The token's user claim is missing or not a string of 1 to 255 visible ASCII characters."


def not_a_time(claim: str) -> str:
    """The reason for a claim that is no NumericDate."""
    return f"The token's {claim} is not a number of seconds since 1970."


def too_early(claim: str) -> str:
    """The reason for a claim that lies ahead."""
    return f"The token is not valid yet ({claim})."


# ---------------------------------------------------------------- the tokens


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with *changes*."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice-in-wonderland",
        "tenant_id": "acme-corporation",
        "iat": NOW_S,
        "nbf": NOW_S,
        "exp": NOW_S + 300,
    }
    return overlay(good, changes)


def head(key: SigningKey = ED, **changes: Any) -> str:
    """A good token but for its header."""
    return sign(key, claims(), changes)


def body(**changes: Any) -> str:
    """A good token but for its claims."""
    return sign(ED, claims(**changes))


def text_of(value: object) -> str:
    """As JSON."""
    return json.dumps(value)


def with_text(more: str, **changes: Any) -> str:
    """A good token with the JSON members *more* in front of its claims."""
    return sign(ED, f"{{{more},{text_of(claims(**changes))[1:]}".encode())


def hmac_signed(secret: bytes, **header: Any) -> str:
    """A token signed with a shared secret."""
    message = f"{part({'alg': 'HS256', 'kid': 'rsa-1', **header})}.{part(claims())}"
    return f"{message}.{b64(hmac.digest(secret, message.encode(), hashlib.sha256))}"


def unsigned(alg: object, signature: str = "AA") -> str:
    """A token of algorithm *alg* with a signature that is none."""
    return f"{part({'alg': alg, 'kid': 'ed-1'})}.{part(claims())}.{signature}"


def parts() -> list[str]:
    """The parts of a good token."""
    return body().split(".")


def resigned(raw: bytes | str, key: SigningKey = ED) -> str:
    """A good token with another signature."""
    signature = raw if isinstance(raw, str) else b64(raw)
    return f"{sign(key, claims()).rpartition('.')[0]}.{signature}"


def loosened(at: int) -> str:
    """A good token, of which part *at* has spare bits that are not 0, and nothing else is changed."""
    found = sign(ED, text_of(claims()).ljust(302).encode(), b'{"alg":"EdDSA","kid":"ed-1"} ').split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(found[at]) % 4 in (2, 3)
    found[at] = found[at][:-1] + alphabet[alphabet.index(found[at][-1]) + 1]
    if at < 2:
        message = f"{found[0]}.{found[1]}"
        found[2] = b64(ED.sign(message.encode()))
    return ".".join(found)


def swapped() -> str:
    """The signature of one token under the claims of another."""
    one, other = body().split("."), body(sub="mallory").split(".")
    return f"{one[0]}.{other[1]}.{one[2]}"


def padded(at: int) -> str:
    """A good token, of which part *at* has its padding."""
    found = sign(ED, text_of(claims()).ljust(302).encode(), b'{"alg":"EdDSA","kid":"ed-1"} ').split(".")
    found[at] += "=" * (-len(found[at]) % 4)
    assert found[at].endswith("=")
    return ".".join(found)


def standard_base64() -> str:
    """A good token in the alphabet of ordinary Base64."""
    header, payload, _ = sign(ED, claims(sub="ü>>>???ÿÿÿ~~~")).split(".")
    return f"{header}.{payload}.{b64encode(bytes([0xFB, 0xFF] * 32)).decode()}"


def longest() -> str:
    """A good token that is just as long as it may be."""
    for filler in range(5700, 6200):
        token = body(x="x" * filler)
        if len(token) >= LONGEST:
            return token
    raise AssertionError


NESTED_DEEP = b'{"alg":"EdDSA","kid":"ed-1","x":' + b"[" * 2500 + b"]" * 2500 + b"}"

FORMS: dict[str, tuple[Callable[[], str], str]] = {
    "empty": (lambda: "", FORM),
    "one part": (lambda: parts()[0], FORM),
    "two parts": (lambda: ".".join(parts()[:2]), FORM),
    "four parts": (lambda: body() + ".AAAA", FORM),
    "five parts are an encrypted token": (lambda: ".".join([*parts(), "AAAA", "AAAA"]), ENCRYPTED),
    "six parts": (lambda: ".".join(parts() * 2), FORM),
    "only dots": (lambda: "..", FORM),
    "an empty header": (lambda: "." + ".".join(parts()[1:]), FORM),
    "empty claims": (lambda: f"{parts()[0]}..{parts()[2]}", FORM),
    "an empty signature": (lambda: ".".join([*parts()[:2], ""]), FORM),
    "a padded header": (lambda: padded(0), FORM),
    "padded claims": (lambda: padded(1), FORM),
    "a padded signature": (lambda: padded(2), FORM),
    "a blank in front": (lambda: " " + body(), FORM),
    "a blank behind": (lambda: body() + " ", FORM),
    "a line end behind": (lambda: body() + "\n", FORM),
    "a line end within": (lambda: body()[:50] + "\n" + body()[50:], FORM),
    "a tab within": (lambda: body()[:50] + "\t" + body()[50:], FORM),
    "NUL behind": (lambda: body() + "\0", FORM),
    "the scheme in front": (lambda: "Bearer " + body(), FORM),
    "quotes around": (lambda: f'"{body()}"', FORM),
    "letters beyond ASCII": (lambda: body() + "é", FORM),
    "digits beyond ASCII": (lambda: body() + "\u0661", FORM),
    "half of a surrogate pair": (lambda: body() + "\ud800", FORM),
    "ordinary Base64": (standard_base64, FORM),
    "the JSON serialisation": (lambda: text_of({"payload": parts()[1], "signatures": []}), FORM),
    "an API key": (lambda: "clk_0123456789abcdef", FORM),
    "a header of impossible length": (lambda: "A" + body(), CANONICAL),
    "a header of one letter": (lambda: "A." + ".".join(parts()[1:]), CANONICAL),
    "a signature of one letter": (lambda: resigned("A"), CANONICAL),
    "spare bits in the header": (lambda: loosened(0), CANONICAL),
    "spare bits in the claims": (lambda: loosened(1), CANONICAL),
    "spare bits in the signature": (lambda: loosened(2), CANONICAL),
    "longer than the limit": (lambda: longest() + "A", LONG),
    "much longer than the limit": (lambda: body(x="x" * 100_000), LONG),
    "garbage longer than the limit": (lambda: "\0" * (LONGEST + 1), LONG),
}

HEADERS: dict[str, tuple[Callable[[], str], str]] = {
    "a header that is no JSON": (lambda: sign(ED, claims(), b"alg=EdDSA"), HEADER),
    "a header with something behind it": (lambda: sign(ED, claims(), b'{"alg":"EdDSA","kid":"ed-1"}{}'), HEADER),
    "a header that is a list": (lambda: sign(ED, claims(), b'["EdDSA"]'), HEADER),
    "a header that is a string": (lambda: sign(ED, claims(), b'"EdDSA"'), HEADER),
    "a header that is null": (lambda: sign(ED, claims(), b"null"), HEADER),
    "alg twice": (lambda: sign(ED, claims(), b'{"alg":"none","kid":"ed-1","alg":"EdDSA"}'), HEADER),
    "kid twice": (lambda: sign(ED, claims(), b'{"alg":"EdDSA","kid":"x","kid":"ed-1"}'), HEADER),
    "kid twice, once escaped": (lambda: sign(ED, claims(), b'{"alg":"EdDSA","k\\u0069d":"x","kid":"ed-1"}'), HEADER),
    "a name twice further in": (lambda: sign(ED, claims(), b'{"alg":"EdDSA","kid":"ed-1","x":{"a":1,"a":2}}'), HEADER),
    "a header that is not UTF-8": (lambda: sign(ED, claims(), b'{"alg":"EdDSA","kid":"ed-1","x":"\xff"}'), HEADER),
    "a header in UTF-16": (lambda: sign(ED, claims(), '{"alg":"EdDSA","kid":"ed-1"}'.encode("utf-16")), HEADER),
    "a header behind a byte order mark": (
        lambda: sign(ED, claims(), b'\xef\xbb\xbf{"alg":"EdDSA","kid":"ed-1"}'),
        HEADER,
    ),
    "NaN in the header": (lambda: sign(ED, claims(), b'{"alg":"EdDSA","kid":"ed-1","x":NaN}'), HEADER),
    "a header that nests without end": (lambda: sign(ED, claims(), NESTED_DEEP), HEADER),
    "an empty header object": (lambda: sign(ED, claims(), b"{}"), ALGORITHM),
    "type of a key set": (lambda: head(typ="jwk-set+json"), TYPE),
    "type of an encrypted token": (lambda: head(typ="JWE"), TYPE),
    "type of a logout token": (lambda: head(typ="logout+jwt"), TYPE),
    "type of a security event": (lambda: head(typ="secevent+jwt"), TYPE),
    "type of a proof of possession": (lambda: head(typ="dpop+jwt"), TYPE),
    "type of a full media type that is not ours": (lambda: head(typ="application/json"), TYPE),
    "type of the media type twice": (lambda: head(typ="application/application/jwt"), TYPE),
    "an empty type": (lambda: head(typ=""), TYPE),
    "a type that is null": (lambda: head(typ=None), TYPE),
    "a type that is a number": (lambda: head(typ=1), TYPE),
    "a type that is a list": (lambda: head(typ=["JWT"]), TYPE),
    "an unknown critical extension": (lambda: head(crit=["urn:x"], **{"urn:x": 1}), EXTENSION),
    "a critical extension that is not there": (lambda: head(crit=["urn:x"]), EXTENSION),
    "a critical exp": (lambda: head(crit=["exp"], exp=NOW_S + 300), EXTENSION),
    "a critical alg": (lambda: head(crit=["alg"]), EXTENSION),
    "an empty crit": (lambda: head(crit=[]), EXTENSION),
    "a crit that is null": (lambda: head(crit=None), EXTENSION),
    "a crit that is a string": (lambda: head(crit="b64"), EXTENSION),
    "a payload that is not encoded": (lambda: head(crit=["b64"], b64=False), EXTENSION),
    "b64 without crit": (lambda: head(b64=False), EXTENSION),
    "b64 of true in crit": (lambda: head(crit=["b64"], b64=True), EXTENSION),
    "b64 of true": (lambda: head(b64=True), EXTENSION),
    "a key of its own": (lambda: head(EVIL_ED, jwk=EVIL_ED.jwk()), OWN_KEY),
    "the right key of its own": (lambda: head(jwk=ED.jwk()), OWN_KEY),
    "a URL of keys of its own": (lambda: head(EVIL_ED, jku="https://evil.example/keys"), OWN_KEY),
    "a URL of certificates": (lambda: head(EVIL_ED, x5u="https://evil.example/cert.pem"), OWN_KEY),
    "certificates of its own": (lambda: head(EVIL_ED, x5c=["MIIB"]), OWN_KEY),
    "a jku that is null": (lambda: head(jku=None), OWN_KEY),
    "encryption named in the header": (lambda: head(enc="A256GCM"), NESTED),
    "compression": (lambda: head(zip="DEF"), NESTED),
    "a token within a token": (lambda: sign(ED, body().encode(), {"cty": "JWT"}), NESTED),
    "content of another type": (lambda: head(cty="application/json"), NESTED),
}

ALGORITHMS: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (lambda: unsigned("none"), ALGORITHM),
    "alg none with a good signature": (lambda: head(alg="none"), ALGORITHM),
    "alg None": (lambda: unsigned("None"), ALGORITHM),
    "alg NONE": (lambda: unsigned("NONE"), ALGORITHM),
    "alg nOnE": (lambda: unsigned("nOnE"), ALGORITHM),
    "alg none with a blank": (lambda: unsigned("none "), ALGORITHM),
    "alg none without a signature": (lambda: unsigned("none", ""), FORM),
    "no alg": (lambda: head(alg=ABSENT), ALGORITHM),
    "an alg that is null": (lambda: head(alg=None), ALGORITHM),
    "an empty alg": (lambda: head(alg=""), ALGORITHM),
    "an alg that is a number": (lambda: head(alg=256), ALGORITHM),
    "an alg that is a list": (lambda: head(alg=["EdDSA"]), ALGORITHM),
    "an alg that is an object": (lambda: head(alg={"EdDSA": 1}), ALGORITHM),
    "an alg in small letters": (lambda: head(RSA, alg="rs256"), ALGORITHM),
    "HS256 with the public key's PEM": (lambda: hmac_signed(RSA.pem()), ALGORITHM),
    "HS256 with the public key's JWK": (lambda: hmac_signed(text_of(RSA.jwk()).encode()), ALGORITHM),
    "HS256 with the modulus": (lambda: hmac_signed(RSA.jwk()["n"].encode()), ALGORITHM),
    "HS256 with an empty secret": (lambda: hmac_signed(b""), ALGORITHM),
    "HS256 with a secret of the set": (lambda: hmac_signed(SECRET, kid="hs"), ALGORITHM),
    "HS384": (lambda: hmac_signed(RSA.pem(), alg="HS384"), ALGORITHM),
    "HS512": (lambda: hmac_signed(RSA.pem(), alg="HS512"), ALGORITHM),
    "RS256 that was signed with a shared secret": (lambda: hmac_signed(RSA.pem(), alg="RS256"), SIGNATURE),
    "RS384": (lambda: head(RSA, alg="RS384"), ALGORITHM),
    "RS512": (lambda: head(RSA, alg="RS512"), ALGORITHM),
    "PS256": (lambda: head(RSA, alg="PS256"), ALGORITHM),
    "ES384": (lambda: head(P384, alg="ES384"), ALGORITHM),
    "ES512": (lambda: head(EC, alg="ES512"), ALGORITHM),
    "ES256K": (lambda: head(K1, alg="ES256K"), ALGORITHM),
    "Ed448": (lambda: head(alg="Ed448"), ALGORITHM),
    "RS256 with an elliptic key": (lambda: head(EC, alg="RS256"), NO_KEY),
    "RS256 with an Edwards key": (lambda: head(ED, alg="RS256"), NO_KEY),
    "ES256 with an RSA key": (lambda: head(RSA, alg="ES256"), NO_KEY),
    "ES256 with an Edwards key": (lambda: head(ED, alg="ES256"), NO_KEY),
    "EdDSA with an RSA key": (lambda: head(RSA, alg="EdDSA"), NO_KEY),
    "EdDSA with an elliptic key": (lambda: head(EC, alg="EdDSA"), NO_KEY),
}

KEYS: dict[str, tuple[Callable[[], str], str]] = {
    "no key id where two keys fit": (lambda: head(EC, kid=ABSENT), NO_KEY_ID),
    "a key id that is null": (lambda: head(kid=None), KEY_ID),
    "a key id that is a number": (lambda: head(kid=1), KEY_ID),
    "a key id that is a list": (lambda: head(kid=["ed-1"]), KEY_ID),
    "a key id that is an object": (lambda: head(kid={"ed-1": 1}), KEY_ID),
    "a key id that is true": (lambda: head(kid=True), KEY_ID),
    "an empty key id": (lambda: head(kid=""), KEY_ID),
    "a key id that is too long": (lambda: head(kid="k" * 256), KEY_ID),
    "a key id with a line end": (lambda: head(kid="ed-1\n"), KEY_ID),
    "a key id with a blank": (lambda: head(kid="ed-1 "), KEY_ID),
    "a key id with NUL": (lambda: head(kid="ed-1\0"), KEY_ID),
    "a key id beyond ASCII": (lambda: head(kid="\u0435d-1"), KEY_ID),
    "a key id that nobody knows": (lambda: head(kid="ed-2"), NO_KEY),
    "a key id of the longest sort": (lambda: head(kid="k" * 255), NO_KEY),
    "a key id in capitals": (lambda: head(kid="ED-1"), NO_KEY),
    "a key id that is SQL": (lambda: head(kid="x'OR'1'='1"), NO_KEY),
    "a key id that is an absolute path": (lambda: head(kid="/dev/null"), PLACE),
    "a key id that is a path upwards": (lambda: head(kid="../../etc/passwd"), PLACE),
    "a key id that is a path in the middle": (lambda: head(kid="keys/../../x"), PLACE),
    "a key id that is a path from here": (lambda: head(kid="./key.pem"), PLACE),
    "a key id that is a path from home": (lambda: head(kid="~/.ssh/id_rsa"), PLACE),
    "a key id that is a Windows path": (lambda: head(kid="C:\\keys\\1.pem"), PLACE),
    "a key id that is an encoded path": (lambda: head(kid="%2Fetc%2Fpasswd"), PLACE),
    "a key id that is encoded dots": (lambda: head(kid="x%2e%2ekey"), PLACE),
    "a key id that is a URL": (lambda: head(kid="https://evil.example/keys/1"), PLACE),
    "a key id that is a file's URL": (lambda: head(kid="file:/etc/passwd"), PLACE),
    "a key id that is a URL of no scheme": (lambda: head(kid="//evil.example/keys"), PLACE),
    "an RSA key of 1024 bits": (lambda: head(WEAK), NO_KEY),
    "a key on P-384": (lambda: head(P384, alg="ES256"), NO_KEY),
    "a key on secp256k1": (lambda: head(K1, alg="ES256"), NO_KEY),
    "a key for encryption": (lambda: head(FOR_ENCRYPTION), NO_KEY),
    "a key that is for signing only": (lambda: head(FOR_SIGNING), NO_KEY),
    "a key whose operations are no list": (lambda: head(ODD_USE), NO_KEY),
    "a key of another algorithm by its own words": (lambda: head(OF_ANOTHER), NO_KEY),
    "a key whose id is no string": (lambda: head(SPLIT, kid="7"), NO_KEY),
    "a key whose private half is published": (lambda: head(PUBLISHED), NO_KEY),
    "a key of the set that is damaged": (lambda: head(kid="ed-short"), NO_KEY),
    "a key of the set that is half there": (lambda: head(RSA, kid="rsa-half"), NO_KEY),
    "a key of the set that is off its curve": (lambda: head(EC, kid="ec-off"), NO_KEY),
}

SIGNATURES: dict[str, tuple[Callable[[], str], str]] = {
    "another RSA key under a known id": (lambda: head(EVIL_RSA), SIGNATURE),
    "another elliptic key under a known id": (lambda: head(EVIL_EC), SIGNATURE),
    "another Edwards key under a known id": (lambda: head(EVIL_ED), SIGNATURE),
    "another key without an id": (lambda: head(EVIL_ED, kid=ABSENT), SIGNATURE),
    "a key of the set under another one's id": (lambda: head(EC_TWIN, kid="ec-1"), SIGNATURE),
    "claims of another token": (swapped, SIGNATURE),
    "a signature of nothing": (lambda: resigned(ED.sign(b"")), SIGNATURE),
    "an Edwards signature of zeros": (lambda: resigned(bytes(64)), SIGNATURE),
    "an Edwards signature that is cut off": (lambda: resigned(bytes(63)), SIGNATURE),
    "an Edwards signature with a byte more": (lambda: body() + "AA" * 2, SIGNATURE),
    "an ECDSA signature of zeros": (lambda: resigned(bytes(64), EC), SIGNATURE),
    "an ECDSA signature in DER": (
        lambda: resigned(EC.sign_der(sign(EC, claims()).rpartition(".")[0].encode()), EC),
        SIGNATURE,
    ),
    "an RSA signature of zeros": (lambda: resigned(bytes(256), RSA), SIGNATURE),
    "an RSA signature that is cut off": (lambda: resigned(b"\0", RSA), SIGNATURE),
}

CLAIMS_FORM: dict[str, tuple[Callable[[], str], str]] = {
    "claims that are no JSON": (lambda: sign(ED, b"sub=alice"), CLAIMS),
    "claims that are a list": (lambda: sign(ED, [claims()]), CLAIMS),
    "claims that are a string": (lambda: sign(ED, "alice"), CLAIMS),
    "a token as claims": (lambda: sign(ED, body().encode()), CLAIMS),
    "claims that are not UTF-8": (lambda: sign(ED, text_of(claims(sub="?")).encode().replace(b"?", b"\xe9")), CLAIMS),
    "sub twice": (lambda: with_text('"sub":"mallory"'), CLAIMS),
    "exp twice": (lambda: with_text('"exp":1'), CLAIMS),
    "a name twice further in the claims": (lambda: with_text('"x":[{"a":1,"a":1}]'), CLAIMS),
    "NaN as exp": (lambda: with_text('"exp":NaN', exp=ABSENT), CLAIMS),
    "Infinity as exp": (lambda: with_text('"exp":Infinity', exp=ABSENT), CLAIMS),
    "a number of thousands of digits": (lambda: with_text('"x":' + "9" * 5000), CLAIMS),
    "claims that nest without end": (lambda: with_text('"x":' + "[" * 2500 + "]" * 2500), CLAIMS),
}

ISSUED: dict[str, tuple[Callable[[], str], str]] = {
    "no issuer": (lambda: body(iss=ABSENT), ISS),
    "another issuer": (lambda: body(iss="https://evil.example/"), ISS),
    "an issuer without its last slash": (lambda: body(iss=ISSUER[:-1]), ISS),
    "an issuer with more behind it": (lambda: body(iss=ISSUER + "x"), ISS),
    "an issuer in capitals": (lambda: body(iss=ISSUER.upper()), ISS),
    "an issuer that is a list": (lambda: body(iss=[ISSUER]), ISS),
    "an issuer that is null": (lambda: body(iss=None), ISS),
    "no audience": (lambda: body(aud=ABSENT), AUD),
    "another audience": (lambda: body(aud="another"), AUD),
    "an audience that begins like ours": (lambda: body(aud=AUDIENCE + "-2"), AUD),
    "an audience that ours begins with": (lambda: body(aud=AUDIENCE[:-1]), AUD),
    "an empty audience": (lambda: body(aud=""), AUD),
    "an empty list of audiences": (lambda: body(aud=[]), AUD),
    "a list of other audiences": (lambda: body(aud=["a", "b"]), AUD),
    "a list of audiences with a number": (lambda: body(aud=[AUDIENCE, 1]), AUD),
    "a list of lists of audiences": (lambda: body(aud=[[AUDIENCE]]), AUD),
    "an audience that is an object": (lambda: body(aud={AUDIENCE: True}), AUD),
    "an audience that is null": (lambda: body(aud=None), AUD),
}

TIMES: dict[str, tuple[Callable[[], str], str]] = {
    "no exp": (lambda: body(exp=ABSENT), NO_EXP),
    "an exp that is null": (lambda: body(exp=None), not_a_time("exp")),
    "an exp that is a string": (lambda: body(exp=str(NOW_S + 300)), not_a_time("exp")),
    "an exp that is true": (lambda: body(exp=True), not_a_time("exp")),
    "an exp that is a list": (lambda: body(exp=[NOW_S + 300]), not_a_time("exp")),
    "an exp before 1970": (lambda: body(exp=-1), not_a_time("exp")),
    "an exp in milliseconds": (lambda: body(exp=(NOW_S + 300) * 1000), not_a_time("exp")),
    "an exp without end": (lambda: with_text('"exp":1e999', exp=ABSENT), not_a_time("exp")),
    "an exp beyond the year 9999": (lambda: body(exp=253_402_300_800), not_a_time("exp")),
    "an exp of 0": (lambda: body(exp=0), EXPIRED),
    "an exp long ago": (lambda: body(exp=NOW_S - 86_400), EXPIRED),
    "an exp that the leeway just does not reach": (lambda: body(exp=NOW_S - LEEWAY_S), EXPIRED),
    "an exp of half a second before that": (lambda: body(exp=NOW_S - LEEWAY_S - 0.5), EXPIRED),
    "an nbf just beyond the leeway": (lambda: body(nbf=NOW_S + LEEWAY_S + 1), too_early("nbf")),
    "an nbf far ahead": (lambda: body(nbf=NOW_S + 299), too_early("nbf")),
    "an nbf that is a string": (lambda: body(nbf=str(NOW_S)), not_a_time("nbf")),
    "an nbf that is null": (lambda: body(nbf=None), not_a_time("nbf")),
    "an nbf that is false": (lambda: body(nbf=False), not_a_time("nbf")),
    "an iat just beyond the leeway": (lambda: body(iat=NOW_S + LEEWAY_S + 1), too_early("iat")),
    "an iat that is a string": (lambda: body(iat="yesterday"), not_a_time("iat")),
    "an iat that is null": (lambda: body(iat=None), not_a_time("iat")),
    "an iat that is an object": (lambda: body(iat={}), not_a_time("iat")),
}

NAMED: dict[str, tuple[Callable[[], str], str]] = {
    "no tenant": (lambda: body(tenant_id=ABSENT), TENANT),
    "a tenant that is null": (lambda: body(tenant_id=None), TENANT),
    "an empty tenant": (lambda: body(tenant_id=""), TENANT),
    "a tenant that is a number": (lambda: body(tenant_id=1), TENANT),
    "a tenant that is a list": (lambda: body(tenant_id=["acme"]), TENANT),
    "the tenant of administration": (lambda: body(tenant_id="$system"), TENANT),
    "a tenant that is a path": (lambda: body(tenant_id="a/b"), TENANT),
    "a tenant of two dots": (lambda: body(tenant_id=".."), TENANT),
    "a tenant with a blank": (lambda: body(tenant_id="acme corp"), TENANT),
    "a tenant with a line end": (lambda: body(tenant_id="acme\n"), TENANT),
    "a tenant with NUL": (lambda: body(tenant_id="acme\0"), TENANT),
    "a tenant beyond ASCII": (lambda: body(tenant_id="\u0430cme"), TENANT),
    "a tenant that is too long": (lambda: body(tenant_id="t" * 129), TENANT),
    "no user": (lambda: body(sub=ABSENT), USER),
    "a user that is null": (lambda: body(sub=None), USER),
    "an empty user": (lambda: body(sub=""), USER),
    "a user that is a number": (lambda: body(sub=7), USER),
    "a user that is a list": (lambda: body(sub=["alice"]), USER),
    "a user that is true": (lambda: body(sub=True), USER),
    "a user that is too long": (lambda: body(sub="u" * 256), USER),
    "a user beyond ASCII": (lambda: body(sub="alicé"), USER),
    "a user with a space": (lambda: body(sub="alice b"), USER),
    "a user with NUL": (lambda: body(sub="alice\0"), USER),
    "a user with a line end": (lambda: body(sub="alice\n"), USER),
    "a user with a tab": (lambda: body(sub="\talice"), USER),
    "a user with DEL": (lambda: body(sub="alice\x7f"), USER),
    "a user with a control character of Latin-1": (lambda: body(sub="alice\x85"), USER),
    "a user with a line separator": (lambda: body(sub="alice\u2028"), USER),
    "a user with half of a surrogate pair": (lambda: body(sub="alice\ud800"), USER),
}

TABLES = (FORMS, HEADERS, ALGORITHMS, KEYS, SIGNATURES, CLAIMS_FORM, ISSUED, TIMES, NAMED)
REFUSED = {name: case for table in TABLES for name, case in table.items()}

GOOD: dict[str, Callable[[], str]] = {
    "RS256": lambda: head(RSA),
    "ES256": lambda: head(EC),
    "ES256 with a key that says little": lambda: head(EC_TWIN),
    "EdDSA": lambda: head(ED),
    "no key id where one RSA key fits": lambda: head(RSA, kid=ABSENT),
    "no key id where one Edwards key fits": lambda: head(ED, kid=ABSENT),
    "no type": lambda: head(typ=ABSENT),
    "the type in small letters": lambda: head(typ="jwt"),
    "an access token": lambda: head(typ="at+jwt"),
    "the type in full": lambda: head(typ="application/at+JWT"),
    "a certificate's thumbprint": lambda: head(**{"x5t": "AA", "x5t#S256": "AA"}),
    "members that nobody knows": lambda: head(nonce="x"),
    "a list of audiences": lambda: body(aud=["another", AUDIENCE]),
    "an exp just within the leeway": lambda: body(exp=NOW_S - LEEWAY_S + 1),
    "an exp with a fraction": lambda: body(exp=NOW_S - LEEWAY_S + 0.5),
    "an nbf and iat just within the leeway": lambda: body(nbf=NOW_S + LEEWAY_S, iat=NOW_S + LEEWAY_S),
    "no nbf and iat": lambda: body(nbf=ABSENT, iat=ABSENT),
    "claims of other services": lambda: body(roles=["admin"], scope="operator", scopes=["admin"], email=None),
    "just as long as it may be": longest,
}
