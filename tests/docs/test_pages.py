"""All pages: their links lead somewhere, the files they name are there, and nothing in them is of one machine."""

import re
import tomllib
from pathlib import Path

import pytest

from chatledger import __version__
from support import documents
from support.documents import ROOT, read

PAGES = documents.documents()
DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:service|projections|tests|docs|data/samples)/[\w./-]*)`")
MODULE = re.compile(r"`((?!tests/|docs/|data/|mine/)[a-z_]+(?:/[a-z_]+)*\.py)`")
SOURCES = [path.as_posix() for root in ("service", "projections", "tests") for path in (ROOT / root).rglob("*.py")]
MACHINE = re.compile(r"(?<![\w.])/(?:work|home|root|tmp|Users|usr|var|opt)/")
REGISTRIES = re.compile(r"pypi|files\.pythonhosted|index-url|registry\.", re.IGNORECASE)


def name(path: Path) -> str:
    """The page's name from the repository's root."""
    return str(path.relative_to(ROOT))


def anchor(heading: str) -> str:
    """The anchor that a heading gets: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_lead_somewhere(page: Path) -> None:
    """Each link to a page of ours names one that is there, and a heading in it."""
    for target in LINK.findall(page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, place = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if place:
            assert place in [anchor(heading) for heading in documents.headings(linked.read_text())], target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    """Modules, tests, pages and samples."""
    assert [path for path in NAMED.findall(page.read_text()) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_modules_that_a_page_names_are_there(page: Path) -> None:
    """By the end of their paths."""
    named = MODULE.findall(page.read_text())
    assert [each for each in named if not any(path.endswith(f"/{each}") for path in SOURCES)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nothing_is_of_one_machine(page: Path) -> None:
    """No path of somebody's disk, no host of a package registry."""
    text = page.read_text()
    assert MACHINE.findall(text) == []
    assert REGISTRIES.findall(text) == []


def test_the_pages_that_the_code_names_are_there() -> None:
    """A comment that sends the reader to a page sends to one that exists."""
    named = {
        page
        for folder in ("service", "projections")
        for path in (ROOT / folder).rglob("*.py")
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text())
    }
    assert "docs/operations/settings.md" in named
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_a_decision_is_a_page(page: Path) -> None:
    """Context, decision, evidence, consequences, in some 60 lines at most; and it is in the list."""
    text = page.read_text()
    title, *parts = documents.headings(text)
    assert title.startswith(f"{int(page.name[:4])}. ")
    assert parts == ["Context", "Decision", "Evidence", "Consequences"]
    assert len(text.splitlines()) <= 60
    assert f"({page.name})" in read("docs/decisions/README.md")


def test_the_decisions_are_numbered_without_a_gap() -> None:
    """From 1 on."""
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_the_dependencies_are_those_of_the_project() -> None:
    """Each one of pyproject.toml has its reason in the decision, and no other."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    required = {re.split(r"[<>=;~ ]", text)[0] for text in project["dependencies"]}
    shown = documents.rows(read("docs/decisions/0010-dependencies.md"), "package")
    assert {row[0] for row in shown} == required


def test_the_changelog_has_this_version() -> None:
    """The newest release in it is the version of the code, with a date."""
    (newest, *_) = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", read("CHANGELOG.md"), re.MULTILINE)
    assert newest == __version__
