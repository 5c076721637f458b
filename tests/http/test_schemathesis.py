"""Schemathesis against a running server: requests made up from the OpenAPI document, all checks, stateful."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis.errors import FlakyFailure, FlakyStrategyDefinition, InvalidDefinition
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup

from chatledger.ledger.tree_store import TILE_HASHES
from support import schemathesis_hooks as hooks
from support.seeds import VARIABLE
from support.server import Server

pytestmark = pytest.mark.slow

SEED = int(os.environ.get(VARIABLE, "4"))
EXAMPLES = 200
"""In the fuzzing phase, of each operation; those of the other phases come on top."""

SCENARIOS = 400
SUITE_SCENARIOS = 20
STEPS = 30
"""Scenarios of the stateful tests, in suites of so many, and how many requests each has at most."""

MANY_KEYS = {"CHATLEDGER_KEYS_MAX": "100000"}
"""Each scenario has a tenant and a key of its own."""

BUGS = """
from chatledger.domain import messages
from chatledger.http import problems

messages.is_id = lambda text: True
problem = problems.problem

def gone(*arguments, **named):
    answer = problem(*arguments, **named)
    if answer.status_code == 404 and b"message" in answer.body:
        answer.status_code = 410
    return answer

problems.problem = gone
"""
NOTHING_IS_DELETED = """
from chatledger.application import conversations
from chatledger.domain.commands import DeleteSession

write = conversations.Tenant.write

async def write_but_not_delete(self, session_id, command, **named):
    if isinstance(command, DeleteSession):
        return conversations.Written(1, None, None, replayed=False)
    return await write(self, session_id, command, **named)

conversations.Tenant.write = write_but_not_delete
"""
"""Modules that Python imports before all others (`site`'s sitecustomize)."""

SUPPORT = Path(hooks.__file__).parent
TIMEOUT_S = 540
PHASES = ("examples", "coverage", "fuzzing")


@dataclass(frozen=True)
class Target:
    """A server to test, and an operator's key for it, with which the others are made."""

    url: str
    operator: str

    def tenant_key(self, tenant: str) -> str:
        """A key of *tenant* with all that it can have."""
        answer = httpx.post(
            f"{self.url}/v1/admin/keys",
            json={"tenant_id": tenant, "scopes": ["read", "write", "audit", "erase", "admin"]},
            headers={"Authorization": f"Bearer {self.operator}"},
            trust_env=False,
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])


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
        for (each, its_phase, _, status), times in self.counts.items():
            if (each, its_phase) == (operation, phase) and status.isdigit():
                found[status] += times
        return found

    def succeeded(self, operation: str, phase: str) -> bool:
        """Whether *operation* was answered with 2xx, in *phase*."""
        return any(status.startswith("2") for status in self.answers(operation, phase))


def target_of(server: Server) -> Target:
    """*server*, no longer open."""
    command = [
        sys.executable,
        "-m",
        "chatledger",
        "key",
        "create",
        "--database",
        server.database,
        "--operator",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return Target(server.url, done.stdout.splitlines()[-1])


def run(target: Target, folder: Path, *options: str) -> Run:
    """Run Schemathesis as one would by hand."""
    counts = folder / "counts.jsonl"
    environment = {
        **os.environ,
        "CHATLEDGER_TEST_KEY": target.tenant_key("schemathesis"),
        "CHATLEDGER_TEST_OPERATOR_KEY": target.operator,
        hooks.COUNTS: str(counts),
        "PYTHONPATH": str(SUPPORT.parent),
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


def stateful(target: Target, *, scenarios: int = SCENARIOS) -> Run:
    """Follow the document's links in scenarios of up to `STEPS` requests, each in a tenant of its own.

    In a tenant that others have used a scenario goes another way each time. Even so Hypothesis now and then finds one
    that does not repeat itself, or that has no step left, and ends its suite: the next one goes on with the next seed.
    Schemathesis' own command ends there without a word, and passes. What is found counts in any case.
    """
    hooks.counts.clear()
    config = SchemathesisConfig.from_dict(
        {
            "checks": {"enabled": True},
            # The credential is the scenario's own: one that is made up would be 401, whatever else is wrong.
            "generation": {"with-security-parameters": False},
            "phases": {"stateful": {"inference": {"algorithms": []}}},
        }
    )
    schema = schemathesis.openapi.from_url(f"{target.url}/schema/openapi.json", config=config)
    machine: Any = schema.as_state_machine()
    numbers = count()
    found: list[str] = []

    class Scenario(machine):  # type: ignore[misc]  # a class made at run time
        # A scenario begins with what needs no id: a made-up one is not found, which is no beginning of anything.
        root_rules = frozenset(rule for rule in machine.root_rules if "_id_" not in rule)

        def setup(self) -> None:
            self.authorization = f"Bearer {target.tenant_key(f'scenario-{next(numbers)}')}"

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, object]:  # noqa: ARG002
            return {"headers": {"Authorization": self.authorization}}

        def validate_response(self, response: Any, case: schemathesis.Case, *_: object, **__: object) -> None:
            sent = {"Authorization": self.authorization}
            try:
                case.validate_response(
                    response, headers=sent, transport_kwargs={"headers": sent}, recorder=self.recorder
                )
            except FailureGroup as failures:
                # Kept here: if Hypothesis cannot repeat it, it is still a finding.
                found.append(str(failures))
                raise

    for rule in vars(machine):
        if rule.startswith("RANDOM") and rule not in Scenario.root_rules:
            setattr(Scenario, rule, None)
    settings = hypothesis.settings(
        database=None,
        deadline=None,
        max_examples=SUITE_SCENARIOS,
        stateful_step_count=STEPS,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    print(f"{VARIABLE}={SEED}")  # noqa: T201  # pytest shows it beside a failure
    for number in range(scenarios):
        with suppress(FailureGroup, FlakyFailure, FlakyStrategyDefinition, InvalidDefinition):
            hypothesis.seed(SEED + number)(Scenario).run(settings=settings)
        if found or next(numbers) >= scenarios:
            break
    return Run(not found, "\n".join(found), Counter(hooks.counts))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The module's server, and who calls it: the one place that decides on credentials.

    It has a complete tile from the start.
    """
    folder = tmp_path_factory.mktemp("target")
    with Server(folder / "ledger.db", cwd=folder, env=MANY_KEYS) as server:
        talk = {"messages": [{"role": "user", "content": "Hello"}] * TILE_HASHES}
        assert httpx.post(f"{server.url}/v1/sessions", json=talk, trust_env=False).status_code == 201
        yield target_of(server)


@pytest.fixture(scope="module")
def document(target: Target) -> dict[str, Any]:
    """The OpenAPI document."""
    return dict(httpx.get(f"{target.url}/schema/openapi.json", trust_env=False).json())


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, str]:
    """The path of each operation of the document, by its id."""
    return {operation["operationId"]: path for path, item in document["paths"].items() for operation in item.values()}


@pytest.fixture(scope="module")
def single_requests(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of the examples, coverage and fuzzing phases."""
    return run(target, tmp_path_factory.mktemp("schemathesis"))


@pytest.fixture(scope="module")
def scenarios(target: Target) -> Run:
    """The run of the stateful phase."""
    return stateful(target)


@contextmanager
def broken(folder: Path, bugs: str) -> Iterator[Target]:
    """A server with seeded bugs."""
    (folder / "sitecustomize.py").write_text(bugs)
    with Server(folder / "ledger.db", cwd=folder, env={**MANY_KEYS, "PYTHONPATH": str(folder)}) as server:
        yield target_of(server)


def test_no_check_finds_anything_in_single_requests(single_requests: Run) -> None:
    """No 5xx, no undocumented answer, no accepted negative data, and what else Schemathesis looks for."""
    assert single_requests.passed


def test_no_check_finds_anything_in_scenarios(scenarios: Run) -> None:
    """Nor when ids that were answered are used further, after deletions too."""
    assert scenarios.passed, scenarios.report


def test_each_operation_was_tried_often_enough(
    single_requests: Run, scenarios: Run, operations: dict[str, str]
) -> None:
    """With `EXAMPLES` made-up requests or more; and it was met with one that it took."""
    tried = {id_: single_requests.answers(id_, "fuzzing").total() for id_ in operations}
    few = {id_: times for id_, times in tried.items() if times < EXAMPLES}
    met = [id_ for id_ in operations for phase in PHASES if single_requests.succeeded(id_, phase)]
    refused = {id_ for id_ in operations if id_ not in met and not scenarios.succeeded(id_, "stateful")}
    assert (few, refused) == ({}, set())


def test_each_id_that_was_answered_was_used_further(scenarios: Run, document: dict[str, Any]) -> None:
    """Each operation that takes an id was met with one that is there, but for those that a scenario's key lacks."""
    of_tenants = {
        operation["operationId"]
        for path, item in document["paths"].items()
        for operation in item.values()
        if "{" in path and operation["security"] != [{"credential": ["operator"]}]
    }
    assert {id_ for id_ in of_tenants if not scenarios.succeeded(id_, "stateful")} == set()


def test_seeded_bugs_are_found_by_single_requests(tmp_path: Path) -> None:
    """The same run, on a server that takes any id for a good one and has an answer that is not documented."""
    with broken(tmp_path, BUGS) as target:
        found = run(target, tmp_path)
    assert not found.passed
    sections = found.report.partition("= FAILURES =")[2]
    assert "Schema-violating request accepted" in _section(sections, "POST /v1/sessions")
    assert "Received: 410" in _section(sections, "GET /v1/sessions/{session_id}/messages/{message_id}")


def test_a_seeded_bug_is_found_by_scenarios(tmp_path: Path) -> None:
    """The same scenarios, on a server that says that it has deleted a session, and has not."""
    with broken(tmp_path, NOTHING_IS_DELETED) as target:
        found = stateful(target)
    assert not found.passed
    assert "for a resource that was previously deleted" in found.report


def _section(report: str, operation: str) -> str:
    return report.partition(f" {operation} _")[2].partition("\n____")[0]
