"""An identity provider: keys, a JWKS served over real HTTP, and tokens signed by hand, so that bad ones can be made.

Nothing here uses the library that verifies, so that the two cannot be wrong together.
"""

import json
import ssl
import threading
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ABSENT = ...
"""As the value of a header or claim: leave it out."""

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey


def b64(raw: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value: int, length: int = 0) -> str:
    """A big-endian number in base64url, of *length* bytes or as many as it takes."""
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


@dataclass(frozen=True)
class SigningKey:
    """A private key with its id."""

    kid: str
    private: Private

    @property
    def algorithm(self) -> str:
        """What its type signs with by default."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return "RS256"
        return "ES256" if isinstance(self.private, ec.EllipticCurvePrivateKey) else "EdDSA"

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """Its public half as a JWK, with *changes*."""
        return overlay({"kid": self.kid, "use": "sig", "alg": self.algorithm, **self._members()}, changes)

    def _members(self) -> dict[str, str]:
        if isinstance(self.private, rsa.RSAPrivateKey):
            numbers = self.private.public_key().public_numbers()
            return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            point, length = self.private.public_key().public_numbers(), (self.private.key_size + 7) // 8
            name = {"secp256r1": "P-256", "secp384r1": "P-384", "secp256k1": "secp256k1"}[self.private.curve.name]
            return {"kty": "EC", "crv": name, "x": number(point.x, length), "y": number(point.y, length)}
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(self.private.public_key().public_bytes_raw())}

    def secret(self) -> str:
        """The private half of an Ed25519 key, as a JWK's member `d`."""
        assert isinstance(self.private, Ed25519PrivateKey)
        return b64(self.private.private_bytes_raw())

    def pem(self) -> bytes:
        """The public half in PEM: what a confused verifier would take as a shared secret."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        """The signature of *message* as RFC 7518 and RFC 8037 want it."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.sign_der(message))
            length = (self.private.key_size + 7) // 8
            return r.to_bytes(length, "big") + s.to_bytes(length, "big")
        return self.private.sign(message)

    def sign_der(self, message: bytes) -> bytes:
        """An ECDSA signature in the form that JWS does not use."""
        assert isinstance(self.private, ec.EllipticCurvePrivateKey)
        return self.private.sign(message, ec.ECDSA(hashes.SHA256()))


def rsa_key(kid: str, bits: int = 2048) -> SigningKey:
    """A new RSA key."""
    return SigningKey(kid, rsa.generate_private_key(65537, bits))


def ec_key(kid: str, curve: ec.EllipticCurve | None = None) -> SigningKey:
    """A new key on P-256, or another curve."""
    return SigningKey(kid, ec.generate_private_key(curve or ec.SECP256R1()))


def ed_key(kid: str) -> SigningKey:
    """A new Ed25519 key."""
    return SigningKey(kid, Ed25519PrivateKey.generate())


def overlay(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """*members* with *changes*, without those that are `ABSENT` there."""
    return {name: value for name, value in {**members, **changes}.items() if value is not ABSENT}


def part(value: object) -> str:
    """One part of a token: bytes as they are, anything else as JSON."""
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def sign(key: SigningKey, claims: object, header: Mapping[str, Any] | bytes | None = None) -> str:
    """The token of *claims*, with *header* over the usual one, or instead of it where it is bytes."""
    usual = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
    head = header if isinstance(header, bytes) else overlay(usual, header or {})
    message = f"{part(head)}.{part(claims)}"
    return f"{message}.{b64(key.sign(message.encode()))}"


def jwks(*keys: SigningKey | Mapping[str, Any]) -> bytes:
    """A JWKS of *keys*, or of JWKs as they are."""
    return json.dumps({"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]}).encode()


class IdentityProvider:
    """A server on a loopback port that answers every GET with its JWKS; `requests` are the paths asked for.

    Its answer is `status`, `headers` and `body`, all of which can be changed while it runs. While `gate` is closed
    the answers wait; `arrived` is released once for each request, before it waits.
    """

    def __init__(self, *keys: SigningKey, certificate: Path | None = None) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = jwks(*keys)
        self.drip_s = 0.0
        self.requests: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        """Where the JWKS is."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/keys?v=1"

    def rotate(self, *keys: SigningKey | Mapping[str, Any]) -> None:
        """Have these keys and no others from now on."""
        self.body = jwks(*keys)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the base class wants this name
                provider.requests.append(self.path)
                provider.arrived.release()
                provider.gate.wait()
                try:
                    self._answer(provider.body)
                except OSError:
                    self.close_connection = True  # the client has gone

            def _answer(self, body: bytes) -> None:
                self.send_response(provider.status)
                for name, value in provider.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                pause, chunks = threading.Event(), drops(body) if provider.drip_s else [body]
                for chunk in chunks:
                    self.wfile.write(chunk)
                    pause.wait(provider.drip_s)

            def log_message(self, *_: object) -> None:
                """Nothing: the tests look at `requests`."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def drops(body: bytes) -> Sequence[bytes]:
    """*body* byte by byte."""
    return [body[at : at + 1] for at in range(len(body))]
