"""What one caller reaches: the tenant, and for a user's token the user, that reads and writes are bound to (rule 8)."""

import hashlib
from collections.abc import Iterable

import msgspec

from chatledger.domain.access import Caller
from chatledger.domain.commands import Command
from chatledger.domain.session import SessionState
from chatledger.errors import NotFound
from chatledger.ledger.idempotency_store import IdempotencyKey
from chatledger.storage.connection import Connection
from chatledger.writing.command_group import Submission
from chatledger_projections import sessions
from chatledger_projections.sessions import Named


class Reach(msgspec.Struct, frozen=True, gc=False):
    """A caller in a tenant, and the request that it makes."""

    caller: Caller
    tenant_id: str
    request_id: str

    def named(self, session_id: str) -> Named:
        """The session that this caller means, for a query that finds no other."""
        return Named(self.tenant_id, session_id, self.caller.user_id)

    def visible(self, views: Connection, session_id: str) -> SessionState:
        """The session, if there is one for this caller.

        Raises:
            NotFound: it is absent, deleted, another tenant's or another user's, which is all one.
        """
        state = sessions.find(views, self.tenant_id, session_id)
        if state is None or self.caller.user_id not in {None, state.user_id}:
            raise NotFound("session")
        return state

    def submission(
        self, session_id: str, command: Command, expected_version: int | None, key: IdempotencyKey | None
    ) -> Submission:
        """*command* in this caller's envelope."""
        return Submission(
            tenant_id=self.tenant_id,
            session_id=session_id,
            actor=self.caller.actor,
            command=command,
            request_id=self.request_id,
            expected_version=expected_version,
            idempotency_key=None if key is None else self.own(key),
            user_id=self.caller.user_id,
        )

    def own(self, key: IdempotencyKey) -> IdempotencyKey:
        """*key* among this caller's: those of a user are apart from its tenant's and from other users'."""
        user_id = self.caller.user_id
        if user_id is None:
            return key
        # Of the user only a digest, since this outlives an erasure. No key that a client can send holds a line feed.
        digest = hashlib.sha256(f"{self.tenant_id}\n{user_id}".encode()).hexdigest()
        return IdempotencyKey(f"{digest}\n{key.key}", key.fingerprint)


def take(documents: Iterable[bytes], limit: int, *, bytes_max: int) -> tuple[list[bytes], bool]:
    """The page that *documents* begin with, and whether there are more behind it.

    It has at most *limit* documents and *bytes_max* bytes, but always one if there is one and a limit for it.
    """
    taken: list[bytes] = []
    size = 0
    for document in documents:
        size += len(document)
        if len(taken) == limit or (taken and size > bytes_max):
            return taken, True
        taken.append(document)
    return taken, False
