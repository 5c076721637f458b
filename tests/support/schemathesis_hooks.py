"""What the run of tests/http/test_schemathesis.py adds to Schemathesis: counts, and failures that are none.

Schemathesis takes a schema for the whole truth about a request. Where our contract has a rule that no schema can say,
the failure is passed over here: by the answer's problem *and* by the request that it needs, never by operation or
status alone. Everything else that a check says is a failure.
"""

import atexit
import datetime as dt
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

COUNTS = "SCHEMATHESIS_COUNTS"
"""The variable that names the file for the counts: JSON lines of operation, phase, mode, status or reason, count."""

counts: Counter[tuple[str, str, str, str]] = Counter()


@schemathesis.hook
def before_call(_context: Any, case: Any, kwargs: Any) -> None:
    """Keep the run from hiding what it looks for.

    It would revoke its own key, which it finds in the list of keys: all else would be 401. And the coverage phase
    sends each body with the same few `If-Match` and `Idempotency-Key`: 412 or 422 whatever the body is like, where
    the body is what is tried.
    """
    if case.meta is not None and getattr(case.meta.phase.data, "parameter_location", None) == "body":
        case.headers.pop("If-Match", None)
        case.headers.pop("Idempotency-Key", None)
    if _operation(case) == "revokeKey":
        headers = {**case.headers, **(kwargs.get("headers") or {})}
        shown = str(headers.get("Authorization"))
        if shown.startswith("Bearer clk_" + str(case.path_parameters.get("key_id")).removeprefix("k_") + "_"):
            case.path_parameters["key_id"] = "k_another"


@schemathesis.hook
def after_call(_context: Any, case: Any, response: Any) -> None:
    """Count the answer."""
    _count(case, str(response.status_code))


@schemathesis.hook
def filter_failure(_context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether *failure* is one."""
    for kind, excuses in _EXCUSES:
        if isinstance(failure, kind):
            for excuse in excuses:
                if excuse(case, response):
                    _count(case, f"excused: {excuse.__name__}")
                    return False
    return True


def _operation(case: Any) -> str:
    return str(case.operation.definition.raw["operationId"])


def _count(case: Any, what: str) -> None:
    phase, mode = ("-", "-") if case.meta is None else (case.meta.phase.name.value, case.meta.generation.mode.value)
    counts[_operation(case), phase, mode, what] += 1


def _refused(response: Any, name: str, field: str | None = None) -> bool:
    problem = json.loads(response.content)
    return problem["type"] == f"urn:chatledger:problem:{name}" and problem.get("field") == field


def stale_if_match(case: Any, response: Any) -> bool:
    """A version that the session is not at is a well-formed one; 412 is its answer (RFC 9110 section 13.1.1)."""
    return "If-Match" in case.headers and _refused(response, "version-conflict")


def idempotency_key_of_another_request(case: Any, response: Any) -> bool:
    """The contract's 422: the key is a good one, but was used before; examples draw few different ones."""
    return "Idempotency-Key" in case.headers and _refused(response, "idempotency-mismatch")


def cursor_not_given_out(case: Any, response: Any) -> bool:
    """Cursors are signed: one that the service has not given out for this query is refused, whatever its form."""
    return "cursor" in case.query and _refused(response, "invalid-request", "cursor")


def both_as_of(case: Any, response: Any) -> bool:
    """OpenAPI 3.1 cannot say that two query parameters exclude each other."""
    return {"as_of", "as_of_version"} <= set(case.query) and _refused(response, "invalid-request", "as_of")


def if_match_of_letters_and_digits(case: Any, response: Any) -> bool:
    """Header values of the coverage phase have only letters and digits, even where that breaks the pattern."""
    sent = case.headers.get("If-Match")
    broken = sent is not None and re.fullmatch(r'\*|"(0|[1-9][0-9]{0,17})"', sent) is None
    return broken and case.meta.phase.name.value == "coverage" and _refused(response, "invalid-request", "If-Match")


def expiry_in_the_past(case: Any, response: Any) -> bool:
    """A schema cannot say that a time is to come."""
    detail = json.loads(response.content)["detail"]
    is_about_it = _refused(response, "invalid-request", "$.expires_at") and detail == "Must be in the future."
    return is_about_it and isinstance(case.body, dict) and case.body.get("expires_at") is not None


def time_outside_of_utc(case: Any, response: Any) -> bool:
    """A time whose offset leads out of the years that RFC 3339 can write in UTC: no schema can say that."""
    problem = json.loads(response.content)
    if not problem["detail"].endswith("the time is outside of the years 1 to 9999 of UTC."):
        return False
    name = problem["field"]
    sent = case.body if name.startswith("$") else case.query
    for step in re.findall(r"\w+", name):
        sent = sent[int(step) if isinstance(sent, list) else step]
    try:
        dt.datetime.fromisoformat(sent.upper()).astimezone(dt.UTC)
    except OverflowError:
        return True
    return False


def name_not_printable(case: Any, response: Any) -> bool:
    """Which characters are printable is Unicode's to say; the document's pattern has the control characters only."""
    name = case.body.get("name") if isinstance(case.body, dict) else None
    return isinstance(name, str) and not name.isprintable() and _refused(response, "invalid-request", "$.name")


def parent_not_there(_case: Any, response: Any) -> bool:
    """A parent has to be an earlier message of the session, which no schema knows."""
    problem = json.loads(response.content)
    is_about_it = re.fullmatch(r"\$(\.messages\[\d+\])?\.parent_id", problem.get("field", "")) is not None
    return is_about_it and problem["detail"] == "The parent is not an earlier message of this session."


def version_not_reached(case: Any, response: Any) -> bool:
    """The contract: a fork of a version beyond the current one is 400."""
    return (
        _operation(case) == "forkSession"
        and _refused(response, "invalid-request", "$.version")
        and json.loads(response.content)["detail"].startswith("The session is at version ")
    )


def history_of_a_deleted_session(case: Any, _response: Any) -> bool:
    """The contract: what auditors read of a deleted session stays. Messages and the session itself have to be gone."""
    return _operation(case) in ("listSessionEvents", "getSessionProof", "getErasure")


_Excuse = Callable[[Any, Any], bool]
_EXCUSES: tuple[tuple[type, tuple[_Excuse, ...]], ...] = (
    (
        RejectedPositiveData,
        (
            stale_if_match,
            idempotency_key_of_another_request,
            cursor_not_given_out,
            both_as_of,
            if_match_of_letters_and_digits,
            expiry_in_the_past,
            time_outside_of_utc,
            name_not_printable,
            parent_not_there,
            version_not_reached,
        ),
    ),
    (UseAfterFree, (history_of_a_deleted_session,)),
)


@atexit.register
def _write_counts() -> None:
    if name := os.environ.get(COUNTS):
        lines = [json.dumps([*key, count]) for key, count in sorted(counts.items())]
        Path(name).write_text("\n".join(lines))
