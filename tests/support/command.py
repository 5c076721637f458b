"""The command `chatledger` as people run it, and the JSON lines that it reads and writes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 120
_BESIDE_PYTHON = Path(sys.executable).with_name("chatledger")
COMMAND = [str(_BESIDE_PYTHON)] if _BESIDE_PYTHON.exists() else [sys.executable, "-m", "chatledger"]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without the settings that it may hold, and with *variables*."""
    kept = {name: value for name, value in os.environ.items() if not _is_setting(name)}
    return {**kept, **variables}


def _is_setting(name: str) -> bool:
    return name == "DATABASE_PATH" or name.startswith("CHATLEDGER_")


def run(
    *arguments: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    command: Iterable[str] = COMMAND,
    timeout_s: float = TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run the command in *cwd* to its end, whatever that is."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def succeed(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """Run the command, which has to succeed, and return what it wrote to standard output."""
    done = run(*arguments, cwd=cwd, env=env, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refuse(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run the command, which has to refuse with exit code 1 and a clear line, and return that."""
    done = run(*arguments, cwd=cwd, env=env)
    assert_clear(done)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("chatledger: "), done.stderr
    return done.stderr


def assert_clear(done: subprocess.CompletedProcess[str]) -> None:
    """It failed in words for people."""
    assert done.returncode > 0, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr, done.stderr


def status(database: Path) -> dict[str, Any]:
    """What `chatledger status --json` says about *database*."""
    found: dict[str, Any] = json.loads(succeed("status", "--json", "--database", database, cwd=database.parent))
    return found


def exported(database: Path, tenant: str = "default") -> list[dict[str, Any]]:
    """The sessions that `chatledger export` writes."""
    text = succeed("export", "--database", database, "--tenant", tenant, cwd=database.parent)
    return [json.loads(line) for line in text.splitlines()]


def write_lines(path: Path, sessions: Iterable[Mapping[str, Any]]) -> Path:
    """Write *sessions* as a file to import."""
    with path.open("w") as file:
        file.writelines(json.dumps(session) + "\n" for session in sessions)
    return path
