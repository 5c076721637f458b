"""docs/operations/ says what the code says: settings, files, commands, metrics, refusals, logs."""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
import msgspec
import pytest

from chatledger.cli.main import cli
from chatledger.observability.logs import DROPPED
from chatledger.settings import Settings, variable_of
from support import documents
from support.documents import ROOT, Step
from support.server import Server

RUN, SETTINGS, BACKUP, ERASURE, MONITORING, TROUBLESHOOTING = PAGES = [
    documents.read(f"docs/operations/{name}.md")
    for name in ("run", "settings", "backup", "erasure", "monitoring", "troubleshooting")
]
STEPS = [step for page in PAGES for step in documents.steps(page)]
HELP = [step for step in STEPS if step.command.endswith("--help")]
FIELDS = {variable_of(field.name): field for field in msgspec.structs.fields(Settings)}
REFUSALS = {"RefusedToStart", "LedgerDamaged", "LedgerLocked", "SettingsError", "ServiceFailed", "OutputFailed"}
UNITS = {"bytes": "bytes", "ms": "ms", "days": "days", "pages": "pages"}


def sources() -> Iterator[ast.AST]:
    """Every node of our own code."""
    for folder in ("service", "projections"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from ast.walk(ast.parse(path.read_text()))


def text_of(node: ast.expr) -> str:
    """A string of the code, with `…` for what is put in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    assert isinstance(node, ast.Constant), ast.dump(node)
    return str(node.value)


def test_the_settings_are_those_of_the_code() -> None:
    """Each setting is documented, and each one in the table exists."""
    assert [row[0] for row in documents.rows(SETTINGS, "variable")] != []
    assert {row[0] for row in documents.rows(SETTINGS, "variable")} == set(FIELDS)


@pytest.mark.parametrize("row", documents.rows(SETTINGS, "variable"), ids=lambda row: row[0])
def test_a_setting_has_its_default_and_unit(row: list[str]) -> None:
    """The default is the code's; a unit in the name is the unit in the table."""
    variable, default, unit, _ = row
    field = FIELDS[variable]
    assert msgspec.convert(default, field.type, strict=False) == field.default
    named = [UNITS[word] for word in field.name.split("_") if word in UNITS]
    assert named in ([], [unit])


def helps(command: click.Command, name: str) -> Iterator[str]:
    """The ways to ask for help, of a command and all below it."""
    yield f"{name} --help"
    if isinstance(command, click.Group):
        for part, below in command.commands.items():
            yield from helps(below, f"{name} {part}")


def test_each_command_has_its_help_in_the_page() -> None:
    """And the page has no command that is not there."""
    assert {step.command for step in HELP} == set(helps(cli, "chatledger"))


@pytest.mark.parametrize("step", HELP, ids=str)
def test_the_help_is_the_real_one(step: Step, tmp_path: Path) -> None:
    """Word by word."""
    assert documents.run(step, tmp_path).strip() == step.output.strip()


def test_the_commands_answer_as_shown(tmp_path: Path) -> None:
    """Looking at the tables first, because that begins with the import; then the drill. Heads have a test of theirs."""
    shutil.copytree(ROOT / "data/samples", tmp_path / "data/samples")
    looking = documents.steps(documents.section(RUN, "Looking at the tables"))
    drill = drill_steps()
    for step in looking + drill:
        documents.check(step, tmp_path)
    assert len(HELP) + len(looking) + len(drill) + len(head_steps()) == len(STEPS)


def drill_steps() -> list[Step]:
    """The commands of a backup and its restore."""
    return [step for step in documents.steps(documents.section(BACKUP, "Backup and restore")) if step not in HELP]


def head_steps() -> list[Step]:
    """The commands that save heads, and check them."""
    return [step for step in documents.steps(documents.section(BACKUP, "Proof")) if step not in HELP]


def test_heads_are_saved_and_checked_as_shown(tmp_path: Path) -> None:
    """Beside a server without keys, of the command and of both calls; docs/security.md has it with keys."""
    assert len(head_steps()) >= 5
    with Server("data/ledger.db", cwd=tmp_path) as server:
        assert httpx.post(f"{server.url}/v1/sessions", json={"id": "s"}, trust_env=False).status_code == 201
        for step in head_steps():
            documents.check(step, tmp_path, replace={"localhost:8000": f"127.0.0.1:{server.port}"})


def test_the_drill_works_beside_a_running_server(tmp_path: Path) -> None:
    """The copy has all that was acknowledged."""
    with Server("data/ledger.db", cwd=tmp_path) as server:
        assert httpx.post(f"{server.url}/v1/sessions", json={"id": "s"}, trust_env=False).status_code == 201
        for step in drill_steps():
            documents.check(step, tmp_path)
        found = documents.run(Step("chatledger status --json --database drill/ledger.db", ""), tmp_path)
        assert msgspec.json.decode(found)["events"] == 1


def test_the_metrics_are_those_of_the_service(shared_server: Server) -> None:
    """By name and type, both ways."""
    found = httpx.get(f"{shared_server.url}/metrics", trust_env=False).text
    served = set(re.findall(r"^# TYPE (\S+) (\S+)$", found, re.MULTILINE))
    assert {(row[0], row[1]) for row in documents.rows(MONITORING, "metric")} == served


def test_every_refusal_is_in_the_page() -> None:
    """Each message with which the code refuses, and no other."""
    raised = {
        text_of(node.exc.args[0])
        for node in sources()
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in REFUSALS
    }
    assert {row[0] for row in documents.rows(TROUBLESHOOTING, "it says")} == raised


def test_every_log_event_is_in_the_page() -> None:
    """Each event that the code logs, and no other."""
    logged = {
        text_of(node.args[0])
        for node in sources()
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
        and node.func.attr in ("debug", "info", "warning", "error", "exception")
    }
    logged.add(DROPPED)  # made where no logger can help
    assert {name for row in documents.rows(MONITORING, "event") for name in row[0].split(", ")} == logged


def test_the_log_line_has_the_members_shown(tmp_path: Path) -> None:
    """In the order of the page, and the route is the template."""
    (shown,) = documents.blocks(documents.section(MONITORING, "Logs"), "json")
    with Server(tmp_path / "ledger.db", env={"CHATLEDGER_LOG_LEVEL": "info"}, cwd=tmp_path) as server:
        httpx.post(f"{server.url}/v1/sessions/s/messages", json={"role": "user", "content": "x"}, trust_env=False)
        server.stop()
        lines = [msgspec.json.decode(line) for line in server.stderr.splitlines()]
    example = msgspec.json.decode(shown)
    (request,) = [line for line in lines if line["event"] == "request"]
    assert list(request) == list(example)
    assert request["route"] == example["route"]


def test_the_files_are_those_of_the_page(tmp_path: Path) -> None:
    """While serving and behind a stop; all are their owner's alone."""
    shown = {row[0] for row in documents.rows(RUN, "file")}
    with Server("data/ledger.db", cwd=tmp_path) as server:
        assert httpx.post(f"{server.url}/v1/sessions", trust_env=False).status_code == 201
        running = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "data").iterdir()}
        assert server.stop() == 0
    left = {path.name for path in (tmp_path / "data").iterdir()}
    views = "ledger.db.views.000001.db"
    assert set(running) - {views + "-wal", views + "-shm"} <= shown
    assert set(running.values()) == {0}
    assert left == {"ledger.db", "ledger.db.key", "ledger.db.lock", views}
