"""Text that others wrote is shown on a terminal, and does not control it."""

import ast
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatledger.console.terminal import say, visible, visible_json
from chatledger.observability.console_format import TextRenderer

ROOT = Path(__file__).resolve().parents[2]
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""All characters with the property Bidi_Control."""


def controls(text: str, *, keep: str = "") -> set[str]:
    """Those of *text* that a terminal may act on."""
    found = {each for each in text if unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"} or each in BIDI}
    return found - set(keep)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ü, 你好, 🙂, a\u200db", "plain, ü, 你好, 🙂, a\u200db"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\nb\tc\x00\x7f", r"a\r\nb\tc\x00\x7f"),
        ("abc\u202egnp.exe", r"abc\u202egnp.exe"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\udcff.db", r"\udcff.db"),
        ("\\x1b", "\\x1b"),
    ],
)
def test_controls_are_shown_as_escapes(text: str, shown: str) -> None:
    """Everything else stays, other alphabets and joined emoji too."""
    assert visible(text) == shown


@given(st.text(), st.sampled_from(["", "\n", "\n\t"]))
def test_no_control_is_left(text: str, keep: str) -> None:
    """But those that are to stay; what had none is the same."""
    shown = visible(text, keep=keep)
    assert controls(shown, keep=keep) == set()
    if not controls(text, keep=keep):
        assert shown == text
    assert visible(shown, keep=keep) == shown


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_visible_json_says_the_same(value: object) -> None:
    """In JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    assert controls(visible_json(text), keep="\n\t") == set()
    assert json.loads(visible_json(text)) == value


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in it; on standard output, or on standard error."""
    say("a\nb\x1b")
    say("c\nd", err=True)
    assert capsys.readouterr() == ("a\\nb\\x1b\n", "c\\nd\n")


def test_log_lines_for_people_have_no_controls_of_others() -> None:
    """The colours are ours; a traceback keeps its lines."""
    render = TextRenderer(colour=True)
    fields: dict[str, object] = {"level": "warning", "reason": "\x1b[2J\u202e\nfault", "exception": "a\n\x1b[2Jb"}
    line = render(None, "warning", {"event": "user keys not loaded", **fields}).decode()
    assert "\\x1b[2J" in line
    assert "\x1b[2J" not in line
    assert line.endswith("fault\na\n\\x1b[2Jb")
    assert controls(line, keep="\n\x1b") == set()


def test_nothing_is_printed_by_other_ways() -> None:
    """No module but these calls `click.echo` or `print`: a line of progress has nothing of others in it."""
    allowed = {"service/chatledger/console/terminal.py", "service/chatledger/cli/progress.py"}
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("service", "projections")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write"}
    }
    assert found == allowed
