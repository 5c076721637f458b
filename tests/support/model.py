"""The contract as dictionaries: what a session and its messages are after a command, or why it is refused."""

import copy
import json
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

Json: TypeAlias = Any
Where: TypeAlias = tuple[str, str]
"""A tenant and a session id."""


@dataclass(frozen=True)
class Op:
    """A command in plain values. `kind` is create, append, update, remove, fork, delete or erase."""

    kind: str
    where: Where
    messages: tuple[str, ...] = ()
    """Messages as JSON texts, which compare and hash."""
    patch: str = "{}"
    message_id: str = ""
    source: str = ""
    source_version: int = 0
    if_match: int | None = None
    key: str | None = None

    def same_request(self, other: "Op") -> bool:
        """Whether both have the same method, path and body."""
        return replace(self, key=None, if_match=None) == replace(other, key=None, if_match=None)


@dataclass
class ModelMessage:
    """A message: what was given (with its id), its number, and what is known of its time."""

    given: dict[str, Json]
    seq: int
    created_at: str | None = None
    removed: bool = False


@dataclass
class ModelSession:
    """A session as readers see it."""

    members: dict[str, Json]
    version: int = 0
    messages: list[ModelMessage] = field(default_factory=list)
    deleted: bool = False
    erased: bool = False
    visible_at: int = 1
    past: dict[int, "ModelSession"] = field(default_factory=dict)

    def step(self) -> None:
        """Count one event, and remember how it was after it."""
        self.version += 1
        self.past[self.version] = copy.deepcopy(replace(self, past={}))

    def visible(self) -> list[ModelMessage]:
        """The messages that readers see."""
        return [message for message in self.messages if not message.removed]

    def find(self, message_id: str) -> ModelMessage | None:
        """The message of that id, removed or not."""
        return next((message for message in self.messages if message.given["id"] == message_id), None)


@dataclass(frozen=True)
class Accepted:
    """The command succeeds; the session is at `version` after it."""

    version: int


@dataclass(frozen=True)
class Again:
    """The first answer comes again."""

    op: Op


@dataclass(frozen=True)
class Refused:
    """The command is refused with one of `names`: the contract does not order refusals that apply at once."""

    names: frozenset[str]


Expected: TypeAlias = Accepted | Again | Refused


def merge(target: Json, patch: Json) -> Json:
    """RFC 7396 section 2, word by word."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


class Model:
    """All tenants' sessions."""

    def __init__(self) -> None:
        self.sessions: dict[Where, ModelSession] = {}
        self.keys: dict[tuple[str, str], Op] = {}

    def visible(self, where: Where) -> ModelSession | None:
        """The session that readers see."""
        session = self.sessions.get(where)
        return None if session is None or session.deleted else session

    def run(self, op: Op) -> Expected:
        """Do what *op* says, and say what the answer must be."""
        if op.key is not None:
            first = self.keys.get((op.where[0], op.key))
            if first is not None:
                return self._again(first, op)
        names = self._refusals(op)
        if names:
            return Refused(frozenset(names))
        getattr(self, f"_{op.kind}")(op)
        if op.key is not None:
            self.keys[op.where[0], op.key] = op
        return Accepted(self.sessions[op.where].version)

    def _again(self, first: Op, op: Op) -> Expected:
        """A key dies with the session that its request made or changed."""
        erased = {"not-found"} if self.sessions[first.where].erased else set()
        if not first.same_request(op):
            return Refused(frozenset({"idempotency-mismatch"} | erased))
        return Refused(frozenset(erased)) if erased else Again(first)

    def _refusals(self, op: Op) -> set[str]:
        if op.kind in ("create", "fork"):
            missing = op.kind == "fork" and self.visible((op.where[0], op.source)) is None
            applies = {"not-found": missing, "session-exists": op.where in self.sessions}
            return {name for name, applied in applies.items() if applied}
        if op.kind == "erase":
            return self._refusals_of_erasure(op)
        session = self.visible(op.where)
        if session is None:
            return {"not-found"}
        names = set()
        if op.kind == "append":
            given = [json.loads(text) for text in op.messages]
            stored = [session.find(message["id"]) for message in given]
            if any(old and (old.removed or old.given != new) for new, old in zip(given, stored, strict=True)):
                names.add("message-exists")
            if all(stored):
                return names  # a retry passes whatever If-Match says
        if op.kind == "remove":
            message = session.find(op.message_id)
            if message is None or message.removed:
                names.add("not-found")
        if op.if_match not in (None, session.version):
            names.add("version-conflict")
        return names

    def _refusals_of_erasure(self, op: Op) -> set[str]:
        session = self.sessions.get(op.where)
        if session is None:
            return {"not-found"}
        stale = not session.erased and op.if_match not in (None, session.version)
        return {"version-conflict"} if stale else set()

    def _create(self, op: Op) -> None:
        session = self.sessions[op.where] = ModelSession(json.loads(op.patch) | {"archived": False})
        session.step()
        self._append(op)

    def _append(self, op: Op) -> None:
        session = self.sessions[op.where]
        for text in op.messages:
            given = json.loads(text)
            if session.find(given["id"]) is None:
                seq = len(session.messages) + 1
                session.messages.append(ModelMessage(given, seq, given.get("created_at")))
                session.step()

    def _update(self, op: Op) -> None:
        session = self.sessions[op.where]
        members = {"title": None, "user_id": None, "traits": {}, "archived": False}
        members |= merge(session.members, json.loads(op.patch))
        if members != session.members:
            session.members = members
            session.step()

    def _remove(self, op: Op) -> None:
        session = self.sessions[op.where]
        message = session.find(op.message_id)
        assert message is not None
        message.removed = True
        session.step()

    def _fork(self, op: Op) -> None:
        source = self.sessions[op.where[0], op.source].past[op.source_version]
        members = source.members | {"archived": False}
        members["forked_from"] = {"session_id": op.source, "version": op.source_version}
        copies = source.visible()
        session = self.sessions[op.where] = ModelSession(members, visible_at=1 + len(copies))
        session.step()
        for seq, message in enumerate(copies, start=1):
            given = message.given | {"created_at": message.created_at}
            session.messages.append(ModelMessage(given, seq, message.created_at))
            session.step()

    def _delete(self, op: Op) -> None:
        session = self.sessions[op.where]
        session.deleted = True
        session.step()

    def _erase(self, op: Op) -> None:
        session = self.sessions[op.where]
        if not session.erased:
            session.deleted = session.erased = True
            session.step()

    def learn(self, where: Where, times: dict[str, str]) -> None:
        """Take over the times that the service gave, once and for all, into the past too."""
        session = self.sessions[where]
        for state in (session, *session.past.values()):
            for message in state.messages:
                if message.created_at is None:
                    message.created_at = times.get(message.given["id"])
