"""Identifiers."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatledger.domain.ids import is_id, is_idempotency_key, is_request_id, new_id


@given(st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True).filter(lambda text: text not in (".", "..")))
def test_an_id_is_1_to_128_of_its_characters(text: str) -> None:
    """Whatever has that form is an id, but for the two that clients resolve in a path."""
    assert is_id(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a" * 129, "a b", "a/b", "\u00e9", "a\n", "a\x00", "%41", "\uff21", "a\u0660", "$system"],
)
def test_anything_else_is_no_id(text: str) -> None:
    """Neither too long, nor with a line feed at its end, nor with another alphabet's letters or digits."""
    assert not is_id(text)


@pytest.mark.parametrize(("accepts", "longest"), [(is_idempotency_key, 255), (is_request_id, 128)])
def test_a_header_is_visible_ascii_up_to_its_length(accepts: type, longest: int) -> None:
    """All 94 visible characters; no space, no control character, no more than the limit."""
    assert accepts("".join(map(chr, range(0x21, 0x7F))))
    assert accepts("~" * longest)
    for refused in ("", "~" * (longest + 1), "a b", "a\n", "\x7f", "\u00e9"):
        assert not accepts(refused)


def test_a_new_id_is_a_uuid_of_version_7_and_an_id() -> None:
    """Sorted by time: indexes on it grow at their end."""
    made = [new_id() for _ in range(1000)]
    assert all(is_id(each) and uuid.UUID(each).version == 7 for each in made)
    assert len(set(made)) == 1000
    assert [each[:8] for each in made] == sorted(each[:8] for each in made)
