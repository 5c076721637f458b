"""The reader of our own pages sees what it should: it would not pass whatever a page says."""

from pathlib import Path

import pytest

from support.documents import Step, check, headings, matches, rows, section, steps

PAGE = """# Title

## One

```console
$ printf 'a\\nb'
a
…
$ cat <<'END'
> $ no command
> END
$ no command
```

## Two

```sh
# no heading
$ no console
```

| name | text |
|---|---|
| `a` | x \\| y |

### Below
"""


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        ("a", "a\n", True),
        ("a", "b", False),
        ("a", "aa", False),
        ("a…c", "a\nb\nc", True),
        ("a…c", "a\nb\nd", False),
        ("a.c", "abc", False),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_a_wildcard_stands_for_anything_and_nothing_else_does(expected: str, actual: str, equal: bool) -> None:  # noqa: FBT001
    """All of the output has to be there, and no more."""
    assert matches(expected, actual) is equal


def test_commands_outputs_and_continuations_are_told_apart() -> None:
    """Only in `console` blocks; a line after `> ` belongs to the command, whatever it says."""
    found = steps(section(PAGE, "One"))
    assert found[0] == Step("printf 'a\\nb'", "a\n…")
    assert found[1] == Step("cat <<'END'\n$ no command\nEND", "")
    assert found[2] == Step("no command", "")
    assert steps(section(PAGE, "Two")) == []


def test_headings_are_not_found_in_code() -> None:
    """And a section goes on to the next one of its level."""
    assert headings(PAGE) == ["Title", "One", "Two", "Below"]
    assert "### Below" in section(PAGE, "Two")
    assert "## Two" not in section(PAGE, "One")


def test_tables_are_read_without_their_marks() -> None:
    """An escaped bar is part of its cell."""
    assert rows(PAGE, "name") == [["a", "x | y"]]


def test_a_wrong_output_and_a_failing_command_are_seen(tmp_path: Path) -> None:
    """Seeded bugs: other words, an exit code."""
    check(Step("echo yes", "yes"), tmp_path)
    with pytest.raises(AssertionError, match="shown"):
        check(Step("echo yes", "no"), tmp_path)
    with pytest.raises(AssertionError):
        check(Step("echo yes; false", "yes"), tmp_path)
