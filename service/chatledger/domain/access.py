"""Who is calling, and what it may do: the one place that decides (rule 8).

Routes declare the scope that they need (`access=` in `service/api`), credentials carry scopes, and `check` compares
the two. What a caller may *reach* is not decided here but by `tenant.py`, whose objects are bound to it.
"""

import secrets
from enum import StrEnum

import msgspec

from chatledger.errors import Forbidden


class Scope(StrEnum):
    """What a credential allows. All but `operator` are within one tenant."""

    READ = "read"
    """Sessions and messages, as readers see them."""
    WRITE = "write"
    """Making and changing sessions and messages."""
    AUDIT = "audit"
    """Events, deleted sessions' too, and proofs."""
    ERASE = "erase"
    """Removing a session's content for good."""
    ADMIN = "admin"
    """The tenant's keys."""
    OPERATOR = "operator"
    """The process and the whole ledger: metrics, rebuilds, tiles of the tree, and every tenant's events and keys."""


def new_local_credential() -> str:
    """What commands beside a server show, which each start makes anew."""
    return "cll_" + secrets.token_urlsafe(32)


PUBLIC = None
"""What a route declares that needs no credential."""

TENANT_SCOPES = (Scope.READ, Scope.WRITE, Scope.AUDIT, Scope.ERASE, Scope.ADMIN)
"""What a tenant's key can be given."""

OPERATOR_SCOPES = frozenset({Scope.OPERATOR, Scope.AUDIT, Scope.ADMIN})
"""What an operator's key allows, in the tenant that the request names. Not: reading, writing or erasing as a tenant."""

USER_SCOPES = frozenset({Scope.READ, Scope.WRITE})
"""What a user's token allows, on sessions of that user."""


class Caller(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Whoever sent a request, as its credential says.

    `tenant_id` is None where the request itself may name the tenant; `user_id` is set where the caller reaches only
    that user's sessions. `actor` is what the events say; `credential` is what log lines say and limits are kept by:
    a key's id, never a secret.
    """

    actor: str
    credential: str
    scopes: frozenset[Scope]
    tenant_id: str | None = None
    user_id: str | None = None

    @property
    def may_see_system(self) -> bool:
        """Whether it may look at the events of administrative acts."""
        return self.tenant_id is None and {Scope.ADMIN, Scope.OPERATOR} <= self.scopes


OPEN = Caller(actor="open", credential="open", scopes=frozenset(Scope) - {Scope.ADMIN})
"""Anybody, while there are no keys. The first key is made on the machine itself, so that nobody else locks it."""

LOCAL = Caller(actor="cli", credential="local", scopes=frozenset(Scope))
"""A command beside the server, which could read the ledger's files in any case."""


def check(caller: Caller, needed: Scope | None) -> None:
    """Refuse a caller that lacks the scope *needed*.

    Raises:
        Forbidden: it does.
    """
    if needed is not None and needed not in caller.scopes:
        lack = "nobody has while there are no keys" if caller is OPEN else "the credential does not have"
        raise Forbidden(f"This needs the scope `{needed}`, which {lack}.", scope=needed)
