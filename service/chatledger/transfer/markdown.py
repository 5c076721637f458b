"""One session as Markdown, for people to read.

Whatever a conversation contains stays inside its block: its fence is longer than any run of backticks in it
(https://spec.commonmark.org/0.31.2/#fenced-code-blocks). So a message can neither look like a heading, nor like another
message, nor reach a renderer as HTML. Controls are shown as escapes (`console/terminal.py`), because people read it in
terminals too.
"""

import re
from collections.abc import Iterator

import msgspec
from msgspec import UNSET, Raw

from chatledger.console.terminal import visible, visible_json
from chatledger.domain.documents import MessageDocument
from chatledger.domain.session import SessionState
from chatledger.domain.timestamps import format_us
from chatledger.storage.connection import Connection
from chatledger_projections import messages

_PAGE = 200
_FENCE_MIN = 3
_RUNS = re.compile("`+")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|!&~])")
_OTHERS = ("tool_calls", "function_call", "refusal", "audio", "annotations", "metadata")
_TEXTS = frozenset({"text", "input_text", "output_text"})

_document = msgspec.json.Decoder(MessageDocument)


class _TextPart(msgspec.Struct, forbid_unknown_fields=True):
    """A content part that says nothing but its text."""

    type: str
    text: str


_text_part = msgspec.json.Decoder(_TextPart)
_parts = msgspec.json.Decoder(list[Raw])


def markdown(views: Connection, state: SessionState) -> Iterator[tuple[int, bytes]]:
    """The transcript in parts: the session's head, then its messages, each part with the number of them so far."""
    yield 0, _head(state).encode()
    after, number = messages.FIRST, 0
    while page := list(messages.page(views, state, after=after, limit=_PAGE)):
        for body in page:
            document = _document.decode(body)
            number += 1
            yield number, _message(document).encode()
            after = document.seq


def _head(state: SessionState) -> str:
    lines = [
        f"# {inline(state.title) if state.title else f'Session {code(state.session_id)}'}",
        "",
        f"- session: {code(state.session_id)}",
        f"- tenant: {code(state.tenant_id)}",
    ]
    if state.user_id is not None:
        lines.append(f"- user: {code(state.user_id)}")
    lines += [f"- created: {format_us(state.created_at_us)}", f"- last changed: {format_us(state.updated_at_us)}"]
    if state.forked_from_session_id is not None:
        lines.append(f"- forked from: {code(state.forked_from_session_id)}, version {state.forked_from_version}")
    if state.archived:
        lines.append("- archived")
    lines += [f"- version: {state.version}", f"- messages: {state.message_count}"]
    text = "\n".join(lines) + "\n"
    return text if state.traits == b"{}" else text + _labelled("traits", Raw(state.traits))


def _message(document: MessageDocument) -> str:
    lines = [f"\n## {document.seq}. {document.role}", "", f"- id: {code(document.id)}", f"- at: {document.created_at}"]
    for name in ("name", "tool_call_id", "parent_id"):
        value = getattr(document, name)
        if isinstance(value, str):
            lines.append(f"- {name.replace('_', ' ')}: {code(value)}")
    text = "\n".join(lines) + "\n" + _content(document.content)
    for name in _OTHERS:
        value = getattr(document, name)
        if value is not UNSET and value is not None and value != Raw(b"null"):
            text += _labelled(name.replace("_", " "), value)
    return text


def _content(content: object) -> str:
    if not isinstance(content, Raw) or content == Raw(b"null"):
        return ""
    if bytes(content).startswith(b'"'):
        return "\n" + fenced(msgspec.json.decode(content, type=str), "text")
    return "".join(f"\n{_part(part)}" for part in _parts.decode(content))


def _part(part: Raw) -> str:
    """A part of text as that; any other, an image or a file, as its JSON."""
    try:
        found = _text_part.decode(part)
    except msgspec.ValidationError:
        return fenced(_pretty(part), "json")
    return fenced(found.text, "text") if found.type in _TEXTS else fenced(_pretty(part), "json")


def _labelled(label: str, value: Raw | str) -> str:
    block = fenced(value, "text") if isinstance(value, str) else fenced(_pretty(value), "json")
    return f"\n**{label}**\n\n{block}"


def _pretty(value: Raw) -> str:
    return msgspec.json.format(bytes(value), indent=2).decode()


def fenced(text: str, language: str) -> str:
    """*text* in a block that nothing in it can end. JSON has its own escapes for controls, and says the same."""
    text = visible_json(text) if language == "json" else visible(text.replace("\r\n", "\n"), keep="\n\t")
    fence = "`" * max(_FENCE_MIN, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"


def code(text: str) -> str:
    """*text* as code within a line."""
    line = visible(" ".join(text.split()))
    if not line:
        return "(empty)"
    ticks = "`" * (_longest_run(line) + 1)
    return f"{ticks} {line} {ticks}" if "`" in line else f"{ticks}{line}{ticks}"


def inline(text: str) -> str:
    """*text* within a line, with nothing in it that means something in Markdown."""
    return _SPECIAL.sub(r"\\\1", visible(" ".join(text.split())))


def _longest_run(text: str) -> int:
    return max((len(run) for run in _RUNS.findall(text)), default=0)
