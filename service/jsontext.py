"""JSON that is kept as its sender wrote it: what is checked before, and how two such texts compare or merge.

A message's content is never taken apart and put together again: its bytes are stored, so numbers come back digit
for digit and text to the code point. `msgspec` checks the grammar (RFC 8259) of what it passes over; the checks
here are for what it does not look at.
"""

import json
import re
from itertools import accumulate

import msgspec

from service.errors import InvalidRequest

_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*\\u(?:d[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|d[c-f][0-9a-f]{2})", re.IGNORECASE
)
_PAIR = re.compile(rb"(?<!\\)((?:\\\\)*)\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", re.IGNORECASE)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEP)
_NEITHER_QUOTES = bytes(byte for byte in range(256) if byte not in _STEP and byte != ord('"'))

_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


def check_characters(text: bytes) -> None:
    """Refuse a JSON text of which not every character can be kept.

    Raises:
        InvalidRequest: *text* is not UTF-8 (RFC 8259 section 8.1), or holds the character NUL (no shell, C or SQL tool
            reads on behind it).
    """
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"Not UTF-8: byte {error.start} cannot be decoded.") from None
    if b"\\u0000" in text and _ESCAPED_NUL.search(text):
        raise InvalidRequest("The character NUL (\\u0000) is not accepted in any string.")


def may_be_deeper(text: bytes | msgspec.Raw, depth_max: int) -> bool:
    """A cheap look: whether *text* has more than *depth_max* brackets that open, in strings or not."""
    text = bytes(text)
    return text.count(b"[") + text.count(b"{") > depth_max


def check_depth(text: bytes, *, depth_max: int) -> None:
    """Refuse a JSON text that nests too deeply.

    Raises:
        InvalidRequest: *text* nests deeper than *depth_max* arrays and objects.
    """
    if may_be_deeper(text, depth_max):
        brackets = _brackets(text)
        if max(accumulate(_STEP[bracket] for bracket in brackets), default=0) > depth_max:
            raise InvalidRequest(f"Arrays and objects nest deeper than {depth_max}.")


def _brackets(text: bytes) -> bytes:
    """The brackets of a JSON text that are in no string of it."""
    first, *pieces = text.split(b"\\")
    if pieces:
        # A piece begins with what the backslash before it escapes. Where that is the next one, the piece is empty.
        rest = iter(pieces)
        text = b"".join([first, *[piece[1:] if piece else next(rest, b"") for piece in rest]])
    # Between each two quotes is a string. Looking for strings one by one takes three times as long.
    outside = text.translate(None, _NEITHER_QUOTES).split(b'"')[::2]
    return b"".join(outside).translate(None, _NO_BRACKETS)


def explain_malformed(text: bytes, error: msgspec.DecodeError) -> InvalidRequest:
    """The refusal of a *text* that is no JSON, in words that hold for what is wrong with it."""
    if _LONE_SURROGATE.search(_PAIR.sub(rb"\1", text)):
        return InvalidRequest("A \\u escape is half of a surrogate pair: it stands for no character.")
    return InvalidRequest(f"Malformed JSON: {error}.")


def compact(text: bytes | msgspec.Raw) -> msgspec.Raw:
    """The same JSON without white space between its tokens: it has to fit on a line of an export."""
    return msgspec.Raw(msgspec.json.format(bytes(text), indent=-1))


def _number(digits: str) -> tuple[str, str]:
    # Numbers are kept digit for digit, so 1 and 1.0 differ. Tagged, so that they differ from strings too.
    return ("number", digits)


def same_json(one: bytes | msgspec.Raw, other: bytes | msgspec.Raw) -> bool:
    """Whether two JSON texts say the same: escapes, white space and the order of members aside."""
    one, other = bytes(one), bytes(other)
    if one == other:
        return True
    first, second = (
        json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_number) for text in (one, other)
    )
    return bool(first == second)


def merge_patch(target: bytes | msgspec.Raw, patch: bytes | msgspec.Raw) -> msgspec.Raw:
    """Apply a JSON merge patch (RFC 7396 section 2) to *target*; values that it does not name keep their bytes."""
    patch_bytes = bytes(patch)
    if not patch_bytes.startswith(b"{"):
        return msgspec.Raw(patch_bytes)
    target_bytes = bytes(target)
    merged: dict[str, msgspec.Raw] = {}
    if target_bytes.startswith(b"{"):
        merged.update(_objects.decode(target_bytes))
    changes = _objects.decode(patch_bytes)
    for name, change in changes.items():
        if bytes(change) == b"null":
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name, b"null"), change)
    return msgspec.Raw(msgspec.json.encode(merged))
