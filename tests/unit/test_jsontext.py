"""JSON that is kept as it was written: what is refused, when two texts are the same, and merge patches."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chatledger.domain.json_text import (
    check_characters,
    check_depth,
    compact,
    explain_malformed,
    merge_patch,
    same_json,
)
from chatledger.errors import InvalidRequest
from support.model import merge

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=4)
layouts = st.sampled_from(
    [
        {},
        {"indent": 2},
        {"separators": (" ,\n", "\t: ")},
        {"ensure_ascii": False},
        {"ensure_ascii": False, "separators": (",", ":")},
    ]
)


def depth_of(value: Any) -> int:
    """The nesting of arrays and objects."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def check_text(text: bytes, *, depth_max: int) -> None:
    """Both checks, as a request's body gets them."""
    check_characters(text)
    check_depth(text, depth_max=depth_max)


def is_accepted(text: bytes, *, depth_max: int = 100) -> bool:
    """Whether the checks let *text* pass."""
    try:
        check_text(text, depth_max=depth_max)
    except InvalidRequest:
        return False
    return True


@given(values, layouts, st.integers(0, 5))
def test_the_depth_of_json_is_measured_as_it_is(value: Any, layout: dict[str, Any], depth_max: int) -> None:
    """Brackets in strings do not count, however they are written."""
    assume("\\u0000" not in json.dumps(value))
    assert is_accepted(json.dumps(value, **layout).encode(), depth_max=depth_max) == (depth_of(value) <= depth_max)


@given(st.lists(st.sampled_from(["\\", '"', "[", "u0000", "\x00", "0", "{"]), max_size=12).map("".join))
def test_an_escaped_nul_is_found_behind_any_number_of_backslashes(text: str) -> None:
    r"""`\u0000` is NUL and `\\u0000` is a backslash before five letters."""
    assert is_accepted(json.dumps([text]).encode(), depth_max=1) == ("\x00" not in text)


@pytest.mark.parametrize("text", [b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"'])
def test_what_is_not_utf_8_is_refused(text: bytes) -> None:
    """RFC 8259 section 8.1, over-long forms and surrogates included."""
    with pytest.raises(InvalidRequest, match="UTF-8"):
        check_text(text, depth_max=10)


def test_nesting_is_refused_from_one_above_the_limit_on() -> None:
    """The limit itself is let through; a million brackets are refused without a recursion."""
    check_text(b"[" * 100 + b"]" * 100, depth_max=100)
    check_text(b"[[],[],[]]", depth_max=2)
    with pytest.raises(InvalidRequest, match="deeper than 100"):
        check_text(b"[" * 101 + b"]" * 101, depth_max=100)
    with pytest.raises(InvalidRequest, match="deeper than 100"):
        check_text(b'{"a":' * 1_000_000, depth_max=100)


@pytest.mark.parametrize("at", [0, 1, 2, 262_142, 262_143, 262_144, 300_000])
def test_the_byte_that_is_not_utf_8_is_named(at: int) -> None:
    """Where a text is decoded block by block too."""
    with pytest.raises(InvalidRequest, match=f"byte {at} "):
        check_characters(b"x" * at + b"\xc3(" + b"x" * 300_000)
    with pytest.raises(InvalidRequest, match=f"byte {at} "):
        check_characters(b"x" * at + b"\xf0\x9f\x98")
    check_characters(b"x" * at + "\U0001f600".encode() * 100_000)


def test_depth_is_measured_over_long_texts() -> None:
    """Strings and nesting go on from block to block."""
    deep, length = 50, 300_000
    string = b'"' + b"[" * length + b'"'
    check_depth(b"[" * deep + string + b"]" * deep, depth_max=deep)
    check_depth(b"[" * deep + b"[]," * length + b"0" + b"]" * deep, depth_max=deep + 1)
    with pytest.raises(InvalidRequest, match="deeper"):
        check_depth(b"[" * deep + b"[]," * length + b"[[]]" + b"]" * deep, depth_max=deep + 1)
    with pytest.raises(InvalidRequest, match="deeper"):
        check_depth(b"[" + string + b"," + b"[" * deep + b"]" * deep + b"]", depth_max=deep)


@pytest.mark.parametrize("text", [rb'"\ud83d"', rb'"\ude00"', rb'"\ud83d\u0041"', rb'"\uDE00\uD83D"', rb'"\\\ud83d"'])
def test_half_a_surrogate_pair_is_explained(text: bytes) -> None:
    """The refusal says what is wrong with the text."""
    with pytest.raises(msgspec.DecodeError) as malformed:
        msgspec.json.decode(text)
    assert "surrogate" in str(explain_malformed(text, malformed.value))


@pytest.mark.parametrize("text", [b"{", rb'["\ud83d\ude00",]', rb'["\\ud83d",]'])
def test_other_malformed_json_is_not_blamed_on_surrogates(text: bytes) -> None:
    """A whole pair, or a backslash before the letters, is no surrogate error."""
    with pytest.raises(msgspec.DecodeError) as malformed:
        msgspec.json.decode(text)
    assert "surrogate" not in str(explain_malformed(text, malformed.value))


@given(values, layouts)
def test_compact_json_is_one_line_of_the_same_value(value: Any, layout: dict[str, Any]) -> None:
    """Only white space between tokens goes; the bytes of each token stay."""
    text = json.dumps(value, **layout).encode()
    found = bytes(compact(text))
    assert b"\n" not in found
    assert same_json(found, text)
    ascii_only = layout.get("ensure_ascii", True)
    assert found == json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode()


@given(values, layouts, layouts)
def test_json_is_the_same_however_it_is_laid_out(value: Any, one: dict[str, Any], other: dict[str, Any]) -> None:
    """White space, escapes and the order of members make no difference."""
    turned = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert same_json(json.dumps(value, **one).encode(), json.dumps(turned, **other).encode())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1.0", False),
        ("1", "1e0", False),
        ("100", "1E+2", False),
        ("0", "-0", False),
        ("1", "true", False),
        ("0", "false", False),
        ("0", "null", False),
        ('"1"', "1", False),
        ("[1,2]", "[2,1]", False),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', True),
        ('{"a":1}', '{"a":1,"b":null}', False),
        ("[]", "{}", False),
        ('""', "null", False),
        (r'"\u00e9"', '"\u00e9"', True),
        ('"\u00e9"', '"e\u0301"', False),
        (r'"\/"', '"/"', True),
        ("9007199254740993", "9007199254740992", False),
        ("0.1", "0.10000000000000001", False),
        ("1e400", "1e401", False),
        ("1e999999999999999999999", "1e999999999999999999999 ", True),
        ('["number", 1]', "[1, 1]", False),
        ('{"a":1,"a":2}', '{"a":1, "a":2}', True),
        ('{"a":1,"a":2}', '{"a":3,"a":2}', False),
        ('{"a":1,"a":2}', '{"a":2,"a":1}', False),
        ('{"a":1,"a":2}', '{"a":2}', False),
        ('{"a":2,"a":2}', '{"a":2}', False),
        ('{"a":1,"a":2}', '{"a":[1,2]}', False),
        ('{"a":1,"b":0,"a":2}', '{"b":0,"a":1,"a":2}', True),
        ('{"a":1,"\\u0061":2}', '{"a":1,"a":2}', True),
        ('[{"a":1,"a":2}]', '[{"a":3,"a":2}]', False),
    ],
)
def test_two_json_texts_are_the_same_value_or_not(one: str, other: str, *, same: bool) -> None:
    """By value to the code point, numbers digit for digit as they are kept; no number is a truth value."""
    assert same_json(one.encode(), other.encode()) is same
    assert same_json(other.encode(), one.encode()) is same


RFC_7396_APPENDIX_A = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7396_APPENDIX_A)
def test_a_merge_patch_does_what_rfc_7396_says(target: str, patch: str, result: str) -> None:
    """The examples of appendix A."""
    assert same_json(merge_patch(target.encode(), patch.encode()), result.encode())


@given(values, values, layouts)
def test_a_merge_patch_is_that_of_section_2(target: Any, patch: Any, layout: dict[str, Any]) -> None:
    """Against the RFC's own pseudo-code."""
    found = merge_patch(json.dumps(target).encode(), json.dumps(patch, **layout).encode())
    assert same_json(found, json.dumps(merge(target, patch)).encode())


@given(objects, objects)
def test_a_merge_patch_applied_twice_changes_nothing_more(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """So a retry of an update is harmless."""
    body = json.dumps(patch).encode()
    once = merge_patch(json.dumps(target).encode(), body)
    assert same_json(merge_patch(once, body), once)


def test_a_merge_patch_keeps_the_bytes_of_what_it_does_not_name() -> None:
    """Numbers stay digit for digit."""
    assert bytes(merge_patch(b'{"keep":1.50,"go":1}', b'{"go":null,"new":2e0}')) == b'{"keep":1.50,"new":2e0}'
