"""Conditions of requests: entity tags (RFC 9110 sections 8.8.3, 13.1.1, 13.1.2). A session's is its version."""

import re

from chatledger.domain.commands import ANY_VERSION
from chatledger.errors import InvalidRequest

TAGS_CHARACTERS_MAX = 8192
"""The longest `If-None-Match` that is looked at; beyond it nothing matches, and the answer comes in full."""

_VERSION = re.compile(r'"(0|[1-9][0-9]{0,17})"').fullmatch
# Each is matched from where the one before has ended, and goes over a character once.
_tag = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"').match
_between = re.compile(r"[ \t]*,[ \t,]*").match


def expected_version(value: str | None) -> int | None:
    """The version that an `If-Match` expects, `ANY_VERSION` for `*`, None without the header.

    Raises:
        InvalidRequest: it is neither `*` nor one strong entity tag that a version can be.
    """
    if value is None:
        return None
    if value.strip() == "*":
        return ANY_VERSION
    match = _VERSION(value.strip())
    if match is None:
        raise InvalidRequest('Expected * or a version in double quotes, such as "3".', field="If-Match")
    return int(match[1])


def has_version(value: str, version: int) -> bool:
    """Whether an `If-None-Match` says that the client has *version* already, by weak comparison."""
    if len(value) > TAGS_CHARACTERS_MAX:
        return False
    text = value.strip(" \t")
    return text == "*" or str(version) in entity_tags(text)


def entity_tags(text: str) -> list[str]:
    """The opaque tags of a list, without their quotes and their marks of weakness; none of one that is malformed.

    Empty elements of the list are passed over (RFC 9110 section 5.6.1.2).
    """
    tags: list[str] = []
    text = text.strip(" \t,")
    at = 0
    while at < len(text):
        if tags:
            comma = _between(text, at)
            if comma is None:
                return []
            at = comma.end()
        tag = _tag(text, at)
        if tag is None:
            return []
        tags.append(tag[1])
        at = tag.end()
    return tags
