"""Conversations to measure with: the real ones of ../shared/data where they are, else the few shipped here."""

from pathlib import Path
from typing import Any

import msgspec

SHARED = Path(__file__).parents[3] / "shared" / "data"
SHIPPED = Path(__file__).with_name("sample.jsonl")
TYPICAL_BYTES = 500


class Conversation(msgspec.Struct, frozen=True):
    """A session as an import line has it."""

    id: str
    messages: list[dict[str, Any]]
    user_id: str | None = None
    traits: dict[str, Any] = {}


_decode = msgspec.json.Decoder(Conversation).decode


def source() -> str:
    """Which conversations `load` finds, in words."""
    return "the real conversations of ../shared/data" if _shared() else "the few conversations shipped with it"


def load() -> list[Conversation]:
    """All of them, in the files' order."""
    files = _shared() or [SHIPPED]
    return [_decode(line) for file in files for line in file.read_bytes().splitlines()]


def _shared() -> list[Path]:
    return sorted(SHARED.glob("*.jsonl"))


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """The message as a client sends it that leaves ids to the service."""
    return {name: value for name, value in message.items() if name not in ("id", "parent_id")}


def typical_body(conversations: list[Conversation]) -> bytes:
    """The message whose JSON is nearest to 500 bytes: close to the mean of the real ones."""
    bodies = [msgspec.json.encode(without_ids(each)) for found in conversations for each in found.messages]
    return min(bodies, key=lambda body: abs(len(body) - TYPICAL_BYTES))


def first_messages(conversations: list[Conversation], count: int) -> list[dict[str, Any]]:
    """*count* messages without ids, over again where there are not so many."""
    found = [without_ids(each) for conversation in conversations for each in conversation.messages]
    return (found * (count // len(found) + 1))[:count]
