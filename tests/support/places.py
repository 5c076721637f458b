"""What belongs to whom on a server with two tenants, both of which have users."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from support.credentials import TENANT_B, Credential
from support.wire import Request, Wire

Json = dict[str, Any]
VERSION = 3
"""Of each session here: it was made, with two messages."""


def fresh(prefix: str) -> str:
    """An id that nobody has, as long as all others of its kind."""
    return f"{prefix}-{uuid.uuid4().hex[:16]}"


def like(text: str) -> str:
    """Something as long as *text* that is not there."""
    return text[:-8] + uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class Session:
    """A session of two messages."""

    id: str
    messages: tuple[str, str]


class Place:
    """What belongs to one tenant, or one user of it: made by `maker`; `clerk` has all scopes of the tenant."""

    def __init__(self, world: "World", name: str, maker: Credential, clerk: Credential) -> None:
        assert maker.tenant is not None
        self.world, self.name, self.maker, self.clerk = world, name, maker, clerk
        self.tenant, self.user = maker.tenant, maker.user
        self.canary = f"CANARY-{name}-".replace(":", "-")
        self.request_id = fresh("r")
        self.session, self.sibling, self.deleted = self.make(), self.make(), self.make()
        world.must(self.clerk, "DELETE", f"/v1/sessions/{self.deleted.id}")
        self.key_id = self.make_key()
        self.homonym: Session | None = None
        self.erased = self.make()
        world.must(self.clerk, "POST", f"/v1/sessions/{self.erased.id}/erase", {"reason": self.canary})

    def make(
        self, session_id: str | None = None, *, maker: Credential | None = None, user: str | None = None
    ) -> Session:
        """A new session, by this place's maker."""
        made = Session(session_id or fresh("s"), (fresh("m"), fresh("m")))
        talk = [
            {
                "id": id_,
                "role": "user",
                "content": f"{self.canary}said",
                "metadata": {"about": f"{self.canary}metadata"},
            }
            for id_ in made.messages
        ]
        body = {
            "id": made.id,
            "title": f"{self.canary}title",
            "traits": {"mood": f"{self.canary}traits"},
            "messages": talk,
            **({"user_id": user} if user else {}),
        }
        self.world.must(maker or self.maker, "POST", "/v1/sessions", body, {"X-Request-Id": self.request_id})
        return made

    def make_key(self) -> str:
        """A new key of the tenant."""
        body = {"scopes": ["read"], "name": f"{self.canary}key"}
        return str(self.world.must(self.clerk, "POST", "/v1/admin/keys", body)["id"])


class Refused(Exception):  # a fact, in the test's own words
    """What has to succeed before anything can be asked did not."""


class World:
    """A server with two tenants, both of which have users: the places that everybody is asked about."""

    def __init__(self, wire: Wire, credentials: Mapping[str, Credential]) -> None:
        self.wire = wire
        self.credentials = credentials
        self.cells = 0
        self.faults: list[str] = []
        a, b = credentials["A:all"], credentials["B:all"]
        makers = [(name, credentials[name]) for name in ("A:all", "A:u1", "A:u2", "B:all", "B:u1")]
        self.places = {name: Place(self, name, maker, b if maker.tenant == TENANT_B else a) for name, maker in makers}
        # Sessions of one id in both tenants.
        for mine, other in (("A:all", "B:all"), ("A:u1", "B:all"), ("A:u2", "B:all"), ("B:u1", "A:all")):
            self.places[mine].homonym = self.make_homonym(self.places[mine], self.places[other])
        self.places["B:all"].homonym = self.make_homonym(self.places["B:all"], self.places["A:all"])

    def make_homonym(self, mine: Place, other: Place) -> Session:
        """A session of *mine* whose id *other* has as well."""
        there = other.make()
        try:
            return mine.make(there.id)
        except Refused as refusal:
            self.faults.append(f"the tenants of {mine.name} and {other.name} cannot have the same id: {refusal}")
            return mine.make()

    def must(
        self,
        credential: Credential,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """A request that has to succeed, and its document.

        Raises:
            Refused: it does not.
        """
        answer = self.wire.ask(Request.of(method, path, body, **credential.headers, **(headers or {})))
        if answer.status >= 300:
            raise Refused(method, path, answer)
        return dict(answer.document) if answer.body else {}

    def settle(self) -> None:
        """Wait until no rebuild runs."""
        while self.must(self.credentials["operator"], "GET", "/v1/admin/projections")["rebuild"]:
            continue

    def head(self) -> int:
        """How many events the ledger has."""
        return int(self.must(self.credentials["operator"], "GET", "/v1/ledger/head")["size"])

    def home(self, credential: Credential) -> Place:
        """Where *credential* is at home: with none, or one that names its tenant, in tenant A."""
        if credential.user is not None:
            return self.places[credential.name]
        return self.places["B:all" if credential.tenant == TENANT_B else "A:all"]

    def strangers(self, credential: Credential) -> list[Place]:
        """The places that *credential* must not reach, with its tenant as it is at home."""
        home = self.home(credential)
        return [place for place in self.places.values() if self.is_strange(home, place)]

    @staticmethod
    def is_strange(home: Place, place: Place) -> bool:
        """Whether *place* is out of reach from *home*."""
        return place.tenant != home.tenant or (home.user is not None and place.user != home.user)
