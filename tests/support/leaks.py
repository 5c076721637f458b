"""A server that leaks, for the tests that have to see it: `LEAK` in the environment names how.

Run as `python -m support.leaks`, with `tests` on the path, in place of `chatledger`.
"""

import os
from collections.abc import Callable
from typing import Any

from chatledger.application.api_keys import TenantKeys
from chatledger.application.context import Reach
from chatledger.application.conversations import Tenant
from chatledger.cli import main as main_module
from chatledger.domain.api_keys import Key
from chatledger.errors import NotFound
from chatledger.http.services import Cursors
from chatledger.ledger import event_store
from chatledger.serving import supervisor, worker
from chatledger.writing.command_group import Submission
from chatledger_projections import messages, sessions, tenant_events
from chatledger_projections.sessions import Named


def a_query_without_its_tenant() -> None:
    """A session is found by its id alone."""
    sessions._FIND = sessions._FIND.replace("tenant_id = ?", "? IS NOT NULL")
    messages._NEWEST_AT_ONCE = messages._NEWEST_AT_ONCE.replace("sessions.tenant_id = ?1", "?1 IS NOT NULL")


def a_list_without_its_tenant() -> None:
    """Sessions of all tenants are listed."""
    sessions._PAGE_OF_BOTH = sessions._PAGE_OF_BOTH.replace("tenant_id = ?1", "?1 IS NOT NULL")


def a_feed_without_its_tenant() -> None:
    """Events of all tenants are listed, where no type is asked for."""

    def positions(views: Any, _: str, *, after: int, limit: int, event_type: str | None) -> list[int]:
        del event_type
        rows = views.execute("SELECT position FROM feed WHERE position > ? ORDER BY position LIMIT ?", (after, limit))
        return [position for (position,) in rows]

    tenant_events.positions = positions


def a_history_without_its_tenant() -> None:
    """A stream of the ledger is found by its session's id alone."""
    event_store._FIND_STREAM = event_store._FIND_STREAM.replace("tenant_id = ?", "? IS NOT NULL")


def a_message_without_its_session() -> None:
    """A message is found by its id alone."""

    def find(db: Any, _: Any, message_id: str) -> tuple[int, bytes | None]:
        found = db.execute("SELECT seq FROM messages WHERE id = ?", (message_id,)).fetchone()
        return 1, None if found is None else b'{"seq":%d}' % found

    messages.find = find


def a_read_without_its_user() -> None:
    """Any user of the tenant sees a session."""

    def named(self: Reach, session_id: str) -> Named:
        return Named(self.tenant_id, session_id, None)

    def visible(self: Reach, views: Any, session_id: str) -> Any:
        state = sessions.find(views, self.tenant_id, session_id)
        if state is None:
            raise NotFound("session")
        return state

    Reach.named = named  # type: ignore[method-assign]
    Reach.visible = visible  # type: ignore[method-assign]


def a_write_without_its_user() -> None:
    """Any user of the tenant changes a session."""
    Submission.reaches = lambda _, state: state is not None  # type: ignore[method-assign]


def a_list_without_its_user() -> None:
    """A user lists whom it asks for."""
    page = Tenant.sessions_page

    async def of_all(self: Tenant, **arguments: Any) -> Any:
        self.user_id = None
        return await page(self, **arguments)

    Tenant.sessions_page = of_all  # type: ignore[method-assign]


def retries_of_everybody() -> None:
    """The Idempotency-Keys of a tenant and its users are one set."""
    Reach.own = lambda _, key: key  # type: ignore[method-assign]


def cursors_of_everybody() -> None:
    """A cursor is good in any listing."""
    write, read = Cursors.write, Cursors.read
    Cursors.write = lambda self, position, *_: write(self, position)  # type: ignore[method-assign]
    Cursors.read = lambda self, cursor, *_: read(self, cursor)  # type: ignore[method-assign]


def keys_of_everybody() -> None:
    """A tenant lists the keys of all."""

    def page(self: TenantKeys, *, after: int, limit: int) -> list[tuple[int, Key]]:
        return self._writer.keys.page(None, after=after, limit=limit)

    TenantKeys.page = page  # type: ignore[method-assign]


def keys_revoked_by_anybody() -> None:
    """A tenant revokes the keys of all."""

    async def revoke(self: TenantKeys, key_id: str) -> None:
        self.tenant_id = None
        await original(self, key_id)

    original, TenantKeys.revoke = TenantKeys.revoke, revoke  # type: ignore[method-assign]


LEAKS: dict[str, Callable[[], None]] = {
    leak.__name__.replace("_", " "): leak
    for leak in (
        a_query_without_its_tenant,
        a_list_without_its_tenant,
        a_feed_without_its_tenant,
        a_history_without_its_tenant,
        a_message_without_its_session,
        a_read_without_its_user,
        a_write_without_its_user,
        a_list_without_its_user,
        retries_of_everybody,
        cursors_of_everybody,
        keys_of_everybody,
        keys_revoked_by_anybody,
    )
}
"""By name."""


def main() -> None:
    """A worker that leaks as its supervisor would."""
    LEAKS[os.environ["LEAK"]]()
    worker.main()


if __name__ == "__main__":
    LEAKS[os.environ["LEAK"]]()
    supervisor.WORKER = "support.leaks"
    main_module.main()
