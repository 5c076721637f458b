"""`chatledger erase`: what it says and refuses."""

from pathlib import Path

from support.command import assert_clear, refuse, run, succeed, write_lines


def test_a_user_without_sessions_is_said_so(tmp_path: Path) -> None:
    """Nothing is written, and that is no failure."""
    write_lines(tmp_path / "in.jsonl", [{"id": "s", "messages": []}])
    succeed("import", "--database", "l.db", "in.jsonl", cwd=tmp_path)
    assert "no session" in succeed("erase", "--database", "l.db", "--user", "u", "--reason", "r", cwd=tmp_path)
    assert not (tmp_path / "l.db.erasures").exists()


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    """Neither or both of session and user, an empty reason, what is no id; and nothing is made."""
    for options in (
        ("--reason", "r"),
        ("--session", "s", "--user", "u", "--reason", "r"),
        ("--session", "s"),
        ("--session", "s", "--reason", ""),
        ("--session", "s", "--reason", "x" * 1001),
        ("--session", "s/t", "--reason", "r"),
        ("--session", "s", "--reason", "r", "--tenant", "a b"),
    ):
        done = run("erase", "--database", "l.db", *options, cwd=tmp_path)
        assert_clear(done)
        assert done.returncode == 2, options
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A wrong path must not look like a success."""
    assert "no ledger" in refuse("erase", "--database", "l.db", "--session", "s", "--reason", "r", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
