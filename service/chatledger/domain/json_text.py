"""JSON that is kept as its sender wrote it: what is checked before, and how two such texts compare or merge.

A message's content is never taken apart and put together again: its bytes are stored, so numbers come back digit
for digit and text to the code point. `msgspec` checks the grammar (RFC 8259) of what it passes over; the checks
here are for what it does not look at.
"""

import codecs
import json
import re
from array import array
from itertools import accumulate

import msgspec

from chatledger.errors import InvalidRequest

# No pattern here has a repetition, and each begins with two fixed characters: a search is one pass over the text.
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"[c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD]%b)|(?<!%b\\u[dD])%b)" % (_LOW, _HIGH, _LOW))
_BRACKETS_AND_QUOTES = b'[]{}"'
_ALL_BUT_BRACKETS_AND_QUOTES = bytes(byte for byte in range(256) if byte not in _BRACKETS_AND_QUOTES)
_STEPS = bytes.maketrans(b"[{]}", bytes([1, 1, 255, 255]))  # as signed numbers: 1 deeper, 1 back
_BLOCK_BYTES = 256 * 1024

_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


def check_characters(text: bytes) -> None:
    """Refuse a JSON text of which not every character can be kept.

    Raises:
        InvalidRequest: *text* is not UTF-8 (RFC 8259 section 8.1), or holds the character NUL (no shell, C or SQL tool
            reads on behind it).
    """
    if not text.isascii():
        _check_utf_8(text)
    if b"\\u0000" in text and b"\\u0000" in _without_backslashes(text):
        raise InvalidRequest("The character NUL (\\u0000) is not accepted in any string.")


def _check_utf_8(text: bytes) -> None:
    """Decode block by block: in one piece a text can take four times its length."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(text), _BLOCK_BYTES):
        begun = len(decoder.getstate()[0])  # of a character that began in the block before
        try:
            decoder.decode(text[start : start + _BLOCK_BYTES], final=start + _BLOCK_BYTES >= len(text))
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"Not UTF-8: byte {start - begun + error.start} cannot be decoded.") from None


def _without_backslashes(text: bytes) -> bytes:
    """*text* with other characters for each escaped backslash: every backslash that is left begins an escape."""
    return text.replace(b"\\\\", b"--")


def may_be_deeper(text: bytes | msgspec.Raw, depth_max: int) -> bool:
    """A cheap look: whether *text* has more than *depth_max* brackets that open, in strings or not."""
    text = bytes(text)
    return text.count(b"[") + text.count(b"{") > depth_max


def check_depth(text: bytes, *, depth_max: int) -> None:
    """Refuse a JSON text that nests too deeply.

    Raises:
        InvalidRequest: *text* nests deeper than *depth_max* arrays and objects.
    """
    if not may_be_deeper(text, depth_max):
        return
    marks = _without_backslashes(text).replace(b'\\"', b"").translate(None, _ALL_BUT_BRACKETS_AND_QUOTES)
    depth, in_string = 0, 0
    for start in range(0, len(marks), _BLOCK_BYTES):
        # Each quote that is left begins or ends a string: every other piece is outside of them.
        pieces = marks[start : start + _BLOCK_BYTES].split(b'"')
        steps = array("b", b"".join(pieces[in_string::2]).translate(_STEPS))
        in_string = (in_string + len(pieces) - 1) % 2
        if depth + max(accumulate(steps), default=0) > depth_max:
            raise InvalidRequest(f"Arrays and objects nest deeper than {depth_max}.")
        depth += sum(steps)


def explain_malformed(text: bytes, error: msgspec.DecodeError) -> InvalidRequest:
    """The refusal of a *text* that is no JSON, in words that hold for what is wrong with it."""
    said = str(error).removeprefix("JSON is malformed: ")
    # msgspec takes half a surrogate pair near the end of a text for a text that was cut off.
    is_surrogate = "surrogate" in said or ("truncated" in said and _LONE_SURROGATE.search(_without_backslashes(text)))
    if is_surrogate:
        return InvalidRequest("A \\u escape is half of a surrogate pair: it stands for no character.")
    return InvalidRequest(f"Malformed JSON: {said}.")


def compact(text: bytes | msgspec.Raw) -> msgspec.Raw:
    """The same JSON without white space between its tokens: it has to fit on a line of an export."""
    return msgspec.Raw(msgspec.json.format(bytes(text), indent=-1))


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object's members. A name that comes twice has all its values, in their order, as a tuple: no JSON value is."""
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    values: dict[str, list[object]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: tuple(found) if len(found) > 1 else found[0] for name, found in values.items()}


def same_json(one: bytes | msgspec.Raw, other: bytes | msgspec.Raw) -> bool:
    """Whether two JSON texts say the same: escapes, white space and the order of different members aside.

    Members of one name are compared in the order in which they come.
    """
    one, other = bytes(one), bytes(other)
    if one == other:
        return True
    first, second = (
        # Numbers are kept digit for digit, so 1 and 1.0 differ. As bytes, so that they differ from strings too.
        json.loads(text, parse_int=str.encode, parse_float=str.encode, object_pairs_hook=_members)
        for text in (one, other)
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
