"""What README.md and docs/tutorial.md show is what happens: each line of each `console` block is run, in order."""

import shutil
from pathlib import Path

import httpx
import pytest

from support import documents
from support.documents import ROOT, read
from support.server import Server

README = read("README.md")
TUTORIAL = read("docs/tutorial.md")
SHOWN_URL = "localhost:8000"
CONVERSATION = documents.section(TUTORIAL, "A conversation, with curl")
SERVED = [*documents.steps(documents.section(README, "In two commands")), *documents.steps(CONVERSATION)]
OFFLINE = [
    step
    for heading in ("Import and export", "A projection of your own")
    for step in documents.steps(documents.section(TUTORIAL, heading))
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a reader has it: the samples, and the example of a projection, saved where the page says."""
    shutil.copytree(ROOT / "data/samples", tmp_path / "data/samples")
    shutil.copy(ROOT / "tests/support/example_projection.py", tmp_path / "data/roles.py")
    return tmp_path


def test_the_pages_followed_in_order_give_what_they_show(folder: Path) -> None:
    """Each command, in one ledger: the first ones against a real server, the others once it is stopped."""
    (shown,) = documents.blocks(documents.section(README, "In two commands"), "text")
    with Server("./data/ledger.db", cwd=folder) as server:
        url = f"http://127.0.0.1:{server.port}"
        said = f"chatledger serves {folder.resolve()}/data/ledger.db (new ledger) on {url}\nAPI page: {url}/schema"
        assert documents.matches(shown.replace("http://127.0.0.1:8000", url), said)
        assert server.said == said + "\n"
        assert httpx.get(f"{server.url}/schema", trust_env=False).status_code == 200
        for step in SERVED:
            assert SHOWN_URL in step.command or step.command.startswith("chatledger verify --bundle")
            documents.check(step, folder, replace={SHOWN_URL: f"127.0.0.1:{server.port}"})
        assert server.stop() == 0
    for step in OFFLINE:
        documents.check(step, folder)
    made = {path.name for path in folder.iterdir()}
    assert made == {"data"}, "git would see what a reader makes"
    assert "/data/*" in read(".gitignore").splitlines()


def test_no_command_is_left_out() -> None:
    """Whatever stands in a `console` block stands under a heading that is run."""
    assert documents.steps(README) + documents.steps(TUTORIAL) == SERVED + OFFLINE
    assert len(SERVED + OFFLINE) >= 20


def test_the_conversation_shows_what_the_service_is_for() -> None:
    """Tool calls, a batch, conditions, retries, forks, the past, the events, a deletion."""
    for word in (
        "tool_calls",
        '"messages"',
        "?messages=",
        "If-Match",
        "412",
        "Idempotency-Key",
        "idempotency-replayed: true",
        "/fork",
        "as_of_version",
        "/events",
        "-X DELETE",
    ):
        assert word in CONVERSATION, word


def test_the_make_targets_are_there() -> None:
    """Each `make` command of the README and of CONTRIBUTING.md is a target of the Makefile."""
    makefile = read("Makefile")
    pages = (README, read("CONTRIBUTING.md"))
    commands = [line for page in pages for block in documents.blocks(page, "sh") for line in block.splitlines()]
    targets = [line.split()[1] for line in commands if line.startswith("make ")]
    assert {"run", "check", "test", "test-fast"} <= set(targets)
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_the_projection_is_the_example() -> None:
    """The text in the tutorial is that of the file that the tests run."""
    (shown,) = documents.blocks(documents.section(TUTORIAL, "A projection of your own"), "python")
    assert shown == read("tests/support/example_projection.py")


def test_the_first_screen_has_the_figures_and_the_commands() -> None:
    """What it is, what it is worth, how to start it: before anything else, and in short."""
    headings = [heading for heading in documents.headings(README) if heading != "chatledger"]
    assert headings[0] == "In two commands"
    assert README.index("<!-- bench:start -->") < README.index("<!-- bench:end -->") < README.index("make run")
    assert len(README[: README.index("make run")].splitlines()) <= 45


def test_the_benchmark_has_its_place() -> None:
    """`make bench` fills the space between two marks, in this order, once each."""
    assert README.count("<!-- bench:start -->") == README.count("<!-- bench:end -->") == 1
    assert README.index("<!-- bench:start -->") < README.index("<!-- bench:end -->")
