"""Every operation with every credential and every thing that it can refer to: what comes back, and what is left behind.

The policy is the caller's: `Rule`s, one for each operation of the OpenAPI document. This asks, and compares.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal
from urllib.parse import quote, urlencode

from support.credentials import TENANT_A, TENANT_B, U1, U2, Credential
from support.places import Json, Place, Refused, Session, World
from support.references import fill
from support.wire import Answer, Request

NAMES = {400: "invalid-request", 401: "unauthenticated", 403: "forbidden", 404: "not-found", 412: "version-conflict"}
NAMES |= {422: "idempotency-mismatch"}
IGNORED_HEADERS = ("date", "x-request-id", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
CHANCE = re.compile(
    r"[smrt]-[0-9a-f]{16}|[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|clk_\w{62}|k_\w{12}"
    r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    r'|(?<="request_id":")[\w-]{22}(?=")'
)


@dataclass(frozen=True)
class Then:
    """What is to come: without a status the operation's own; without a count as many events as that leaves."""

    status: int | None = None
    events: int | None = None
    replayed: bool = False
    empty: bool = False


GOOD = Then()
Outcome = int | Then | Callable[["Cell"], "int | Then"]


@dataclass(frozen=True)
class Rule:
    """The policy of one operation: its scope (None: public), its answer and events, and what it can refer to.

    `takes` has each parameter and member of the body; each with the kinds of what can be put there, and the outcome
    for a caller that has the scope. `body` is a good one. `about` is the kind of session that the path names.
    """

    scope: str | None
    status: int = 200
    events: int = 0
    body: Json | None = None
    takes: Mapping[str, Mapping[str, Outcome]] = field(default_factory=dict)
    about: Literal["session", "erased"] = "session"


@dataclass
class Ask:
    """A request, still to be changed."""

    method: str
    path: str
    names: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: Any

    def request(self, credential: Credential) -> Request:
        """With *credential*."""
        # A place of the log has slashes of its own.
        names = {name: quote(value, safe="/" if name == "place" else "") for name, value in self.names.items()}
        target = self.path.format(**names)
        query = f"?{urlencode(self.query)}" if self.query else ""
        return Request.of(self.method, target + query, self.body, **self.headers, **credential.headers)

    def copy(self) -> "Ask":
        """Another one like it."""
        return replace(
            self,
            names=dict(self.names),
            query=dict(self.query),
            headers=dict(self.headers),
            body=json.loads(json.dumps(self.body)),
        )


@dataclass
class Cell:
    """One square of the matrix: an operation, a credential, and what stands where."""

    world: World
    operation: str
    rule: Rule
    method: str
    path: str
    known: Mapping[str, str]
    credential: Credential
    parameter: str
    kind: str
    outcome: Outcome
    stranger: Place | None
    session: Session = field(init=False)
    reference: str = field(init=False, default="")

    def __str__(self) -> str:
        of = f" of {self.stranger.name}" if self.stranger else ""
        return f"{self.operation} by {self.credential.name}, {self.parameter} is {self.kind}{of}"

    @property
    def home(self) -> Place:
        """The caller's own."""
        return self.world.home(self.credential)

    @property
    def side(self) -> Place:
        """Whose things are put in."""
        return self.stranger or self.home

    @property
    def allowed(self) -> bool:
        """Whether the credential has the operation's scope."""
        return self.rule.scope is None or self.rule.scope in self.credential.scopes

    @property
    def is_bound(self) -> bool:
        """Whether the credential says the tenant."""
        return self.credential.tenant is not None

    @property
    def in_tenant(self) -> bool:
        """Whether the stranger is of the same tenant."""
        return self.stranger is not None and self.stranger.tenant == self.home.tenant

    @property
    def wants_session(self) -> bool:
        """Whether the path names a session."""
        return "{session_id}" in self.path

    def expected(self) -> Then:
        """What is to come."""
        if not self.allowed:
            return Then(403 if self.credential.scopes else 401, 0)
        found = self.outcome(self) if callable(self.outcome) else self.outcome
        return found if isinstance(found, Then) else Then(found)

    @property
    def status(self) -> int:
        """The status that is to come."""
        return self.expected().status or self.rule.status

    def as_absent(self) -> "Cell":
        """The same with something that is not there."""
        kind = self.kind.replace("foreign", "absent")
        return replace(self, kind=kind, outcome=self.rule.takes[self.parameter].get(kind, self.outcome))

    def has_twin(self) -> bool:
        """Whether it has to look as if the foreign thing were not there."""
        if "foreign" not in self.kind or self.as_absent().expected() != self.expected():
            return False
        names_tenant = self.parameter in ("X-Tenant-Id", "tenant_id") and self.allowed and not self.is_bound
        return not names_tenant or self.expected().status == 404


def violations(world: World, document: Json, rules: Mapping[str, Rule], *, only: str = "") -> Iterator[str]:
    """What the server gets wrong, one cell after the other; of the operation *only*, where one is named."""
    yield from world.faults
    for cell in cells(world, document, rules):
        if cell.operation == (only or cell.operation):
            world.cells += 1
            try:
                yield from (f"{cell}: {fault}" for fault in faults(cell))
            except Refused as refusal:
                yield f"{cell}: {refusal} was refused before"


def faults(cell: Cell) -> Iterator[str]:
    """What is wrong in one cell: the answer, what it has left, and what tells it from the answer to what is absent."""
    world, then = cell.world, cell.expected()
    ask = prepare(cell)
    before = world.head()
    answer = world.wire.ask(ask.request(cell.credential))
    yield from _wrong(cell, ask, answer)
    found = world.head() - before
    wanted = (cell.rule.events if cell.status == cell.rule.status else 0) if then.events is None else then.events
    if found != wanted:
        yield f"expected {wanted} events, found {found}"
    if cell.has_twin():
        twin = cell.as_absent()
        other = world.wire.ask(prepare(twin).request(cell.credential))
        if _seen(cell, answer) != _seen(twin, other):
            yield f"differs from what is absent: {_seen(cell, answer)} {_seen(twin, other)}"


def cells(world: World, document: Json, rules: Mapping[str, Rule]) -> Iterator[Cell]:
    """Each square: a kind of foreign things is one for each place that is foreign to the caller."""
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            operation = described["operationId"]
            known = {each["name"]: each["in"] for each in described.get("parameters", [])}
            makes = partial(Cell, world, operation, rules[operation], method.upper(), path, known)
            for credential in world.credentials.values():
                yield from filter(is_possible, _row(makes, credential, world.strangers(credential)))


def _row(makes: Callable[..., Cell], credential: Credential, strangers: list[Place]) -> Iterator[Cell]:
    """All that one credential can put into one operation."""
    nothing = makes(credential, "nothing", "own", GOOD, None)
    yield nothing
    for parameter, kinds in nothing.rule.takes.items():
        for kind, outcome in kinds.items():
            for stranger in strangers if "foreign" in kind else [None]:
                yield makes(credential, parameter, kind, outcome, stranger)


def is_possible(cell: Cell) -> bool:
    """Whether there is such a thing: a user's name that somebody in reach has too is nothing foreign in a filter."""
    if cell.parameter == "user_id" and cell.stranger is not None:
        world, home, user = cell.world, cell.home, cell.stranger.user
        known = {place.user for place in world.places.values() if not world.is_strange(home, place)}
        return user is not None and user not in known
    return True


def _wrong(cell: Cell, ask: Ask, answer: Answer) -> Iterator[str]:
    then, status = cell.expected(), cell.status
    if answer.status != status:
        yield f"expected {status}, found {answer.status} {answer.body[:300]!r}"
        return
    document = answer.document if "json" in answer.headers.get("content-type", "") and answer.body else {}
    if status in NAMES and document.get("type") != f"urn:chatledger:problem:{NAMES[status]}":
        yield f"found the problem {document.get('type')}"
    if status == 401 and not answer.headers.get("www-authenticate", "").startswith("Bearer"):
        yield "no WWW-Authenticate"
    if status == 403 and not cell.allowed and document.get("scope") != cell.rule.scope:
        yield f"found the scope {document.get('scope')}"
    if ("idempotency-replayed" in answer.headers) != then.replayed:
        yield "replayed" if not then.replayed else "not replayed"
    if then.empty and document != {"data": [], "next_cursor": None}:
        yield f"expected an empty page, found {document}"
    if answer.headers["x-request-id"] != ask.headers.get("X-Request-Id", answer.headers["x-request-id"]):
        yield "another request id"
    text = "\n".join(answer.headers.values()) + answer.body.decode(errors="replace")
    for canary in _unseen(cell, ask, good=status < 300):
        if canary in text:
            yield f"shows {canary}"


def _unseen(cell: Cell, ask: Ask, *, good: bool) -> Iterator[str]:
    """The canaries that the answer must not have. What a caller has said itself may come back, where it was taken."""
    if cell.allowed and not cell.is_bound:
        return
    said = json.dumps([ask.names, ask.query, ask.headers, ask.body]) if good else ""
    for place in cell.world.places.values():
        if not cell.allowed or cell.world.is_strange(cell.home, place):
            yield place.canary
    if cell.home.tenant != TENANT_B:
        yield TENANT_B
    for user in (U1, U2):
        mine = cell.allowed and (cell.credential.user == user or cell.credential.user is None)
        if not mine and user not in said:
            yield user


def _seen(cell: Cell, answer: Answer) -> tuple[int, dict[str, str], str]:
    """What tells one answer from another, but for the reference itself, chance and time."""

    def mask(text: str) -> str:
        return CHANCE.sub("*", text.replace(cell.reference, "*") if cell.reference else text)

    headers = {name: mask(value) for name, value in answer.headers.items() if name not in IGNORED_HEADERS}
    return answer.status, headers, mask(answer.body.decode(errors="replace"))


def prepare(cell: Cell) -> Ask:
    """The request of *cell*; what it needs is made."""
    if cell.operation == "rebuildProjections":
        cell.world.settle()
    changing = cell.allowed and cell.rule.events > 0
    cell.session = cell.home.make() if changing and cell.wants_session else getattr(cell.home, cell.rule.about)
    ask = Ask(cell.method, cell.path, {}, {}, {}, json.loads(json.dumps(cell.rule.body)))
    if cell.wants_session:
        ask.names["session_id"] = cell.session.id
    if "{message_id}" in cell.path:
        ask.names["message_id"] = cell.session.messages[0]
    if "{place}" in cell.path:
        ask.names |= {"level": "0", "place": "000.p/1"}
    if "{key_id}" in cell.path:
        ask.names["key_id"] = cell.home.make_key() if changing else cell.home.key_id
    if cell.rule.scope is not None and not cell.is_bound:
        ask.headers["X-Tenant-Id"] = TENANT_A
    if cell.operation == "createKey" and not cell.is_bound and cell.allowed:
        ask.body["tenant_id"] = TENANT_A
    fill(cell, ask)
    return ask
