"""Schemathesis against a running server: requests made up from the OpenAPI document, all checks, stateful."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support import schemathesis_hooks as hooks
from support.seeds import VARIABLE
from support.server import Server

pytestmark = pytest.mark.slow

SEED = int(os.environ.get(VARIABLE, "4"))
EXAMPLES = 200
"""In the fuzzing phase, of each operation; those of the other phases come on top."""

SUPPORT = Path(hooks.__file__).parent
TIMEOUT_S = 540
OPERATORS_SCOPE = "operator"


@dataclass(frozen=True)
class Target:
    """A server to test: where it is, and the credentials of its operations (see tests/support/schemathesis.toml)."""

    url: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """What one run of Schemathesis has found."""

    passed: bool
    report: str
    counts: Counter[tuple[str, str, str, str]]
    """By operation, phase, mode and status."""

    def answers(self, operation: str, phase: str) -> Counter[str]:
        """How often each status came, in *phase*."""
        found: Counter[str] = Counter()
        for (each, its_phase, _, status), count in self.counts.items():
            if (each, its_phase) == (operation, phase) and status.isdigit():
                found[status] += count
        return found


def target_of(server: Server) -> Target:
    """*server* with two keys: one of a tenant, with all that it can have, and one of an operator."""
    operator = _command("key", "create", "--database", server.database, "--operator").splitlines()[-1]
    scopes = ["read", "write", "audit", "erase", "admin"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {operator}"}, trust_env=False) as client:
        answer = client.post("/v1/admin/keys", json={"tenant_id": "schemathesis", "scopes": scopes})
    assert answer.status_code == 201, answer.text
    return Target(
        server.url,
        {
            "CHATLEDGER_TEST_KEY": answer.json()["key"],
            "CHATLEDGER_TEST_OPERATOR_KEY": operator,
            hooks.KEY_IN_USE: answer.json()["id"],
        },
    )


def run(target: Target, folder: Path, *options: str) -> Run:
    """Run Schemathesis as one would by hand."""
    counts = folder / "counts.jsonl"
    environment = {
        **os.environ,
        **target.environment,
        hooks.COUNTS: str(counts),
        "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "SCHEMATHESIS_HOOKS": hooks.__name__,
        "COLUMNS": "120",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(SUPPORT / "schemathesis.toml")),
            *("run", f"{target.url}/schema/openapi.json", "--no-color", "--continue-on-failure"),
            *("--seed", str(SEED), "--max-examples", str(EXAMPLES), *options),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    print(f"{VARIABLE}={SEED}\n{done.stdout}{done.stderr}")  # noqa: T201  # pytest shows it beside a failure
    rows = [json.loads(line) for line in counts.read_text().splitlines()]
    return Run(done.returncode == 0, done.stdout, Counter({tuple(row[:-1]): row[-1] for row in rows}))


@pytest.fixture(scope="module")
def target(shared_server: Server) -> Target:
    """The module's server. Who calls it is decided here, and nowhere else."""
    return target_of(shared_server)


@pytest.fixture(scope="module")
def document(target: Target) -> dict[str, dict[str, object]]:
    """The operations of the OpenAPI document, by id."""
    paths = httpx.get(f"{target.url}/schema/openapi.json", trust_env=False).json()["paths"]
    return {
        operation["operationId"]: operation | {"path": path}
        for path, item in paths.items()
        for operation in item.values()
    }


@pytest.fixture(scope="module")
def whole_run(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that the tests below look at."""
    return run(target, tmp_path_factory.mktemp("schemathesis"))


def _command(*arguments: str) -> str:
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_no_check_finds_anything(whole_run: Run) -> None:
    """No 5xx, no undocumented answer, no accepted negative data, and what else Schemathesis looks for."""
    assert whole_run.passed
