"""The fingerprint of a request: by it the same Idempotency-Key with another request is refused.

Kept as an HMAC under the salts of the events that the request became. Whoever has the file could otherwise test guesses
of a short message against it, long after the message was erased; so it dies with the salts (rule 9). Pure.
"""

import hashlib
import hmac
from collections.abc import Sequence

DIGEST_BYTES = 32
ERASED = bytes(DIGEST_BYTES)
"""The fingerprint of a request of which something was erased: no request has it."""


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """What two requests must share to be the same: SHA-256 of method, path with query, and body."""
    return hashlib.sha256(b"%b\n%b\n%b" % (method.encode(), path.encode(), body)).digest()


def salted(request: bytes, salt: bytes | None, others: Sequence[bytes | None]) -> bytes:
    """What is kept of *request*, a `fingerprint`.

    Args:
        request: What `fingerprint` gave for it.
        salt: That of the last event of the stream that the command met or made.
        others: Those of all events that hold something of the request, in their order; None of an erased one.

    Returns:
        An HMAC-SHA-256; `ERASED` where one of the salts is gone.
    """
    if salt is None or not any(salt):
        return ERASED
    parts = [request]
    for other in others:
        if other is None or not any(other):
            return ERASED
        parts.append(other)
    return hmac.digest(salt, b"".join(parts), hashlib.sha256)


def salted_in_sql(*values: float | bytes | str | None) -> bytes:
    """`salted` for the migration: the digest, the salt, and the other salts in hexadecimal, separated by blanks."""
    request, salt, others = values
    if not isinstance(request, bytes) or not isinstance(salt, bytes) or not isinstance(others, str):
        return ERASED
    return salted(request, salt, [None if each == "erased" else bytes.fromhex(each) for each in others.split(" ")])
