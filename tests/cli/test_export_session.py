"""`chatledger export --session`, `--markdown`, and `--events` as a library of others reads it."""

import datetime as dt
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from chatledger.transfer.markdown import code, fenced, inline
from chatledger.writing import erasure
from support.command import assert_clear, exported, refuse, run, succeed, write_lines
from support.store import Store
from support.tables import leaf

NASTY = "before\n```\n# Not a heading\n````json\n<script>alert(1)</script>\n## 9. assistant\n`````"
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
SESSION = {
    "id": "s_1",
    "user_id": "a`b",
    "title": "# *Trip*\n<b>to</b> `Oslo`",
    "traits": {"number": 12345678901234567890123},
    "created_at": "2026-01-02T03:04:05.000006Z",
    "messages": [
        {"id": "m1", "role": "user", "content": NASTY, "created_at": "2026-01-02T03:04:06.000007Z"},
        {"id": "m2", "role": "assistant", "content": None, "tool_calls": [CALL]},
        {"id": "m3", "role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "4 degrees"},
        {
            "id": "m4",
            "role": "user",
            "parent_id": "m1",
            "metadata": {"a": "```"},
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "odd", "more": 1},
            ],
        },
        {"id": "m5", "role": "assistant", "content": "", "refusal": "No."},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with that session, another one, one of another tenant, and one that was erased."""
    folder = tmp_path_factory.mktemp("export")
    others = [{"id": "s_2", "messages": SESSION["messages"]}, {"id": "erased", "messages": SESSION["messages"]}]
    succeed("import", "--database", "ledger.db", write_lines(folder / "a.jsonl", [SESSION, *others]), cwd=folder)
    file = write_lines(folder / "b.jsonl", [{"id": "s_1", "title": "foreign"}])
    succeed("import", "--database", "ledger.db", "--tenant", "acme", file, cwd=folder)
    with Store(folder / "ledger.db") as store:
        erasure.erase(store.committer, tenant_id="default", session_id="erased", reason="asked for", actor="open")
        erasure.finish_now(store.committer)
    return folder


def export(folder: Path, *options: str) -> str:
    """What `chatledger export` writes."""
    return succeed("export", "--database", "ledger.db", *options, cwd=folder)


# Markdown


def outside_and_blocks(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The lines outside of fenced blocks, and the blocks as (language, text), by the rules of CommonMark 4.5."""
    outside: list[str] = []
    blocks: list[tuple[str, str]] = []
    fence, language, inside = "", "", [""]
    for line in re.split(r"\r\n|\n|\r", text):
        opening = re.fullmatch(r"(`{3,})([^`]*)", line)
        if fence:
            if re.fullmatch(rf" {{0,3}}`{{{len(fence)},}}[ \t]*", line):
                blocks.append((language, "\n".join(inside)))
                fence = ""
            else:
                inside.append(line)
        elif opening:
            fence, language, inside = opening[1], opening[2], []
        else:
            outside.append(line)
    assert not fence
    return outside, blocks


def test_a_transcript_has_the_session_and_its_messages(folder: Path) -> None:
    """Title, ids, times, a heading for each message with its role, texts as they are, everything else as JSON."""
    outside, blocks = outside_and_blocks(export(folder, "--session", "s_1", "--markdown"))
    assert outside[0] == r"# \# \*Trip\* \<b\>to\</b\> \`Oslo\`"
    assert "- session: `s_1`" in outside
    assert "- user: `` a`b ``" in outside
    assert "- created: 2026-01-02T03:04:05.000006Z" in outside
    assert [line for line in outside if line.startswith("#")][1:] == [
        "## 1. user",
        "## 2. assistant",
        "## 3. tool",
        "## 4. user",
        "## 5. assistant",
    ]
    for line in ("- id: `m1`", "- at: 2026-01-02T03:04:06.000007Z", "- tool call id: `call_1`", "- parent id: `m1`"):
        assert line in outside
    assert [label for line in outside for label in re.findall(r"\*\*(.*)\*\*", line)] == [
        "traits",
        "tool calls",
        "metadata",
        "refusal",
    ]
    texts = [text for language, text in blocks if language == "text"]
    assert texts == [NASTY, "4 degrees", "Look:", "", "No."]
    values = [json.loads(text) for language, text in blocks if language == "json"]
    content: Any = SESSION["messages"][3]["content"]
    assert values == [SESSION["traits"], [CALL], content[1], content[2], {"a": "```"}]
    assert "12345678901234567890123" in blocks[0][1]


@given(st.text(alphabet="`~ab \t\r\n#<>-*", max_size=60))
def test_no_text_ends_its_block(text: str) -> None:
    """Whatever runs of backticks, and whatever ends of lines, it has."""
    outside, blocks = outside_and_blocks("before\n" + fenced(text, "text") + "## after")
    assert outside == ["before", "## after"]
    assert blocks == [("text", text.replace("\r\n", "\n").replace("\r", r"\r"))]


@given(st.text(max_size=40))
def test_a_name_stays_in_its_line(text: str) -> None:
    """As code or as text: no end of a line, no backtick that would end the code, nothing special unescaped."""
    for made in (code(text), inline(text)):
        assert len(made.splitlines()) <= 1
    ticks = re.match("`+", code(text))
    assert ticks is None or code(text).count(ticks[0]) >= 2
    assert not set(re.sub(r"\\.", "", inline(text))) & set("<>`*_[]")


def test_a_transcript_into_a_file(folder: Path, tmp_path: Path) -> None:
    """The same text."""
    file = tmp_path / "s.md"
    assert export(folder, "--session", "s_1", "--markdown", "--output", str(file)) == ""
    assert file.read_text() == export(folder, "--session", "s_1", "--markdown")


@pytest.mark.parametrize("options", [["--markdown"], ["--markdown", "--events", "--session", "s_1"]])
def test_markdown_is_of_one_session_and_no_events(folder: Path, options: list[str]) -> None:
    """Wrong use, and said so."""
    done = run("export", "--database", "ledger.db", *options, cwd=folder)
    assert_clear(done)
    assert done.returncode == 2
    assert "--markdown" in done.stderr


# one session


def test_one_session_is_the_line_of_the_whole_export(folder: Path) -> None:
    """Of the tenant that is named, or of the tenant `default`."""
    everything = export(folder).splitlines(keepends=True)
    assert export(folder, "--session", "s_1") == everything[0]
    (foreign,) = exported(folder / "ledger.db", "acme")
    assert json.loads(export(folder, "--session", "s_1", "--tenant", "acme")) == foreign


def test_the_events_of_one_session(folder: Path) -> None:
    """Those of all events that are its own; an erased one has them, too."""
    everything = export(folder, "--events", "--tenant", "default").splitlines()
    for name in ("s_2", "erased"):
        found = export(folder, "--events", "--session", name).splitlines()
        assert found == [line for line in everything if json.loads(line)["subject"] == name]
        assert len(found) >= 6


@pytest.mark.parametrize("options", [[], ["--markdown"], ["--events"]])
def test_a_session_that_is_not_there_is_refused(folder: Path, tmp_path: Path, options: list[str]) -> None:
    """No empty file that would look like a conversation without messages."""
    file = tmp_path / "out"
    done = run("export", "--database", "ledger.db", "--session", "no", *options, "--output", file, cwd=folder)
    assert_clear(done)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "chatledger: no: No such session."
    assert list(tmp_path.iterdir()) == []
    assert "No such session" in refuse("export", "--database", "ledger.db", "--session", "erased", cwd=folder)


# CloudEvents


def test_the_library_of_cloudevents_reads_every_line(folder: Path) -> None:
    """And its attributes suffice to compute the leaf: with the salt, or where that is erased with the commitment."""
    lines = export(folder, "--events").splitlines()
    kinds = set()
    for line in lines:
        event = JSONFormat().read(CloudEvent, line)
        assert event.get_specversion() == "1.0"
        assert event.get_datacontenttype() == "application/json"
        assert event.get_source().startswith("urn:uuid:")
        attribute = event.get_extension
        moment = event.get_time()
        assert moment is not None
        record: dict[str, object] = {
            "actor": attribute("actor"),
            "position": int(attribute("position")),
            "recorded_at": (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1),
            "request_id": event.get_attributes().get("requestid"),
            "schema": int(attribute("payloadschema")),
            "session": event.get_subject(),
            "tenant": attribute("tenant"),
            "type": event.get_type(),
            "version": int(attribute("sessionversion")),
        }
        if event.get_data() is None:
            kinds.add("erased")
            assert "salt" not in event.get_attributes()
            found = leaf_of(record, attribute("commitment"))
        else:
            kinds.add("there")
            assert "commitment" not in event.get_attributes()
            # The bytes as they stand in the line; the library has read them into values.
            payload = line[line.index('"data":') + 7 : line.index(',"tenant":"')].encode()
            assert json.loads(payload) == event.get_data()
            found = leaf(record, salt=bytes.fromhex(attribute("salt")), payload=payload)
        assert found.hex() == attribute("leaf")
    assert kinds == {"erased", "there"}


def leaf_of(record: dict[str, object], commitment: str) -> bytes:
    """As `leaf`, of an event whose payload is gone."""
    text = json.dumps({**record, "commitment": commitment}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"\x00" + text.encode()).digest()
