"""Entity tags of requests, by RFC 9110."""

import pytest

from chatledger.domain.commands import ANY_VERSION
from chatledger.errors import InvalidRequest
from chatledger.http.conditions import TAGS_CHARACTERS_MAX, entity_tags, expected_version, has_version


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('"3"', ["3"]),
        ('W/"3"', ["3"]),
        ('"1", W/"2" ,\t"3"', ["1", "2", "3"]),
        ('""', [""]),
        ('"a,b"', ["a,b"]),
        ('"\\"', ["\\"]),  # no escapes in a tag: RFC 9110 section 8.8.3
        ('"\xe9"', ["\xe9"]),
        (', "1",, ,"2" ,', ["1", "2"]),  # empty elements of a list: section 5.6.1.2
        (' "1" ', ["1"]),
    ],
)
def test_a_list_of_tags_is_read(text: str, tags: list[str]) -> None:
    """Weak ones without their mark."""
    assert entity_tags(text) == tags


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ",", "3", '"3', '3"', 'w/"3"', 'W/ "3"', "W/3", '"1" "3"', '"1""3"', '"1"; "3"', '"3",x', 'x,"3"'),
        *('"a b"', '"\x7f"', '"3", *', '*, "3"', '"1"\n,"3"', "'3'", "W/", '"3" x'),
    ],
)
def test_what_is_no_list_of_tags_matches_nothing(text: str) -> None:
    """Not even with the part of it that would be one."""
    assert entity_tags(text) == []
    assert not has_version(text, 3)


@pytest.mark.parametrize("text", ["*", " * ", '"3"', 'W/"3"', '"2", "3"'])
def test_a_client_has_the_version_that_it_names(text: str) -> None:
    """Or any, by the asterisk."""
    assert has_version(text, 3)


@pytest.mark.parametrize("text", ['"03"', '"33"', '"3.0"', '"2"', '"٣"', "**"])
def test_a_client_does_not_have_another_version(text: str) -> None:
    """Tags are compared by their characters."""
    assert not has_version(text, 3)


def test_a_list_that_is_too_long_matches_nothing() -> None:
    """One character less, and it does."""
    longest = '"1",' * ((TAGS_CHARACTERS_MAX - 3) // 4) + " " * ((TAGS_CHARACTERS_MAX - 3) % 4) + '"3"'
    assert len(longest) == TAGS_CHARACTERS_MAX
    assert has_version(longest, 3)
    assert not has_version(" " + longest, 3)


@pytest.mark.parametrize(("value", "version"), [(None, None), ("*", ANY_VERSION), (' "3" ', 3), ('"0"', 0)])
def test_the_expected_version_is_read(value: str | None, version: int | None) -> None:
    """Without the header there is none."""
    assert expected_version(value) == version


@pytest.mark.parametrize("value", ["", "3", 'W/"3"', '"3", "4"', '"03"', '"-1"', '"' + "9" * 19 + '"', '"٣"'])
def test_an_expected_version_is_one_strong_tag(value: str) -> None:
    """Weak ones never match where a strong comparison is asked for (RFC 9110 section 13.1.1)."""
    with pytest.raises(InvalidRequest) as refused:
        expected_version(value)
    assert refused.value.field == "If-Match"
