"""Identifiers: those that clients choose, and those that the service makes."""

import re
from base64 import urlsafe_b64encode

import uuid_utils

ID_PATTERN = r"^(?!\.{1,2}$)[A-Za-z0-9._:-]{1,128}$"
"""What a tenant, session or message id looks like (docs/http-api.md). It needs no escaping in JSON or a
URL; `.` and `..` are left out, because clients resolve them before they send the path (RFC 3986 section 5.2.4)."""

ID_RULE = "1 to 128 of the characters A-Z a-z 0-9 . _ : - and neither `.` nor `..`"
"""The pattern in words, for errors."""

IDEMPOTENCY_KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"
REQUEST_ID_PATTERN = r"^[\x21-\x7e]{1,128}$"

_is_id = re.compile(ID_PATTERN.replace("$", r"\Z")).match
_is_idempotency_key = re.compile(IDEMPOTENCY_KEY_PATTERN.replace("$", r"\Z")).match
_is_request_id = re.compile(REQUEST_ID_PATTERN.replace("$", r"\Z")).match


def is_id(text: str) -> bool:
    """Whether *text* may be a tenant's, session's or message's id."""
    return _is_id(text) is not None


def is_idempotency_key(text: str) -> bool:
    """Whether *text* may be an Idempotency-Key: 1 to 255 visible ASCII characters."""
    return _is_idempotency_key(text) is not None


def is_request_id(text: str) -> bool:
    """Whether a client's X-Request-Id is taken over: 1 to 128 visible ASCII characters."""
    return _is_request_id(text) is not None


def new_id() -> str:
    """A UUIDv7 (RFC 9562 section 5.7): sorted by time, so that indexes on it grow at their end."""
    return str(uuid_utils.uuid7())


def new_request_id() -> str:
    """The same 128 bits in 22 characters (RFC 4648 section 5) and not 36: each event of the request keeps them."""
    return urlsafe_b64encode(uuid_utils.uuid7().bytes)[:22].decode()
