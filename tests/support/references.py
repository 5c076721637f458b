"""What a request can refer to, and how it is put in: own things, others', and ones that are not there."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from support.places import VERSION, Place, fresh, like

if TYPE_CHECKING:
    from support.credentials import Credential
    from support.matrix import Ask, Cell

FUTURE, PAST = "2099-01-01T00:00:00Z", "2000-01-01T00:00:00Z"
BEYOND = 99
Fill = Callable[["Cell", "Ask"], None]

# What is just a value: where it belongs to a session, "own" is there, and "beyond" is not.
VALUES: dict[str, dict[str, object]] = {
    "after": {"own": 1, "beyond": 10**9},
    "before": {"own": 2, "beyond": 10**9},
    "as_of": {"own": FUTURE, "beyond": PAST},
    "as_of_version": {"own": 2, "beyond": BEYOND},
    "version": {"own": 2, "beyond": BEYOND},
    "If-Match": {"own": f'"{VERSION}"', "new": '"0"', "beyond": f'"{BEYOND}"'},
    "If-None-Match": {"own": f'"{VERSION}"', "beyond": f'"{BEYOND}"'},
    "messages": {"own": 2},
    "level": {"own": "entries", "beyond": "64"},
    "place": {"own": "000.p/1", "beyond": "999"},
    "limit": {"own": 1, "beyond": 10**9},
    "order": {"own": "desc"},
    "archived": {"own": "true"},
    "type": {"own": "message.appended"},
    "title": {"own": "another"},
    "traits": {"own": {"mood": "other"}},
    "reason": {"own": "again"},
    "name": {"own": "other"},
    "scopes": {"own": ["read", "write"], "wrong": ["operator"]},
    "expires_at": {"own": FUTURE, "beyond": PAST},
    "unknown": {"own": "1"},
    "X-Tenant-Id": {"$system": "$system", "no id": "no id"},
}


def put(cell: "Cell", ask: "Ask", parameter: str, value: object) -> None:
    """Put *value* where *parameter* is: in the path, the query, a header or the body."""
    place = cell.known.get(parameter, "body")
    if place == "path":
        ask.names[parameter] = str(value)
    elif place == "query" or parameter == "unknown":
        ask.query[parameter] = str(value)
    elif place == "header" or parameter.startswith("X-"):
        ask.headers[parameter] = str(value)
    else:
        ask.body[parameter] = value


def fill(cell: "Cell", ask: "Ask") -> None:
    """Put into *ask* what *cell* says."""
    if cell.parameter == "nothing":
        return
    values = VALUES.get(cell.parameter, {})
    special = SPECIAL.get((cell.parameter, cell.kind)) or SPECIAL.get((cell.parameter, ""))
    where, _, at_session = cell.kind.partition(" at ")
    if special is not None:
        special(cell, ask)
    elif at_session:
        put(cell, ask, cell.parameter, values[where])
        _at_session(cell, ask, at_session.split()[0])
    elif cell.kind in values:
        put(cell, ask, cell.parameter, values[cell.kind])
    else:
        found = REFERENCES[cell.parameter](cell)
        value = like(found) if cell.kind == "absent" else found
        put(cell, ask, cell.parameter, value)
        if cell.parameter != "X-Tenant-Id":  # which is not echoed: whether it counted is to be seen
            cell.reference = value


def _at_session(cell: "Cell", ask: "Ask", kind: str) -> None:
    """The session of the path, and with it the message: *kind* of it."""
    session = cell.side.session
    cell.reference = session.id if kind == "foreign" else like(session.id)
    ask.names["session_id"] = cell.reference
    if "message_id" in ask.names:
        ask.names["message_id"] = session.messages[0]
    if cell.operation == "appendMessages":
        ask.body["parent_id"] = session.messages[0]


REFERENCES: dict[str, Callable[["Cell"], str]] = {
    "session_id": lambda cell: getattr(cell.side, cell.rule.about).id,
    "message_id": lambda cell: (cell.side.session if cell.stranger else cell.session).messages[0],
    "parent_id": lambda cell: (cell.side.session if cell.stranger else cell.session).messages[1],
    "key_id": lambda cell: cell.side.make_key() if cell.allowed else cell.side.key_id,
    "user_id": lambda cell: cell.side.user or "u-nobody-at-all",
    "tenant_id": lambda cell: cell.side.tenant,
    "X-Tenant-Id": lambda cell: cell.side.tenant,
    "X-Request-Id": lambda cell: cell.side.request_id,
    # Of a new one: where the id is not taken it will be.
    "id": lambda cell: (cell.side.make() if cell.allowed else cell.side.session).id,
    "cursor": lambda cell: cursor_of(cell, cell.side),
}


def cursor_of(cell: "Cell", place: Place) -> str:
    """The cursor behind the first one of the listing in *place*, as it is given out there, or to the caller at home."""
    shower = cell.credential if cell.allowed and cell.stranger is None else _who(cell, place)
    path = cell.path.format(session_id=place.session.id)
    # Tenants' own listings are what `X-Tenant-Id` names; of others nobody who is bound can see them.
    headers = {"X-Tenant-Id": place.tenant}
    found = place.world.must(shower, "GET", path + "?limit=1", headers=headers)["next_cursor"]
    assert found, (str(cell), place.name)
    return str(found)


def _who(cell: "Cell", place: Place) -> "Credential":
    """Whoever of *place* may do it."""
    return place.maker if cell.rule.scope in place.maker.scopes else place.clerk


# ---------------------------------------------------------------- what is not just put in


def _absent_session(cell: "Cell", ask: "Ask") -> None:
    _at_session(cell, ask, "absent")


def _foreign_session(cell: "Cell", ask: "Ask") -> None:
    _at_session(cell, ask, "foreign")


def _deleted_session(cell: "Cell", ask: "Ask") -> None:
    place, kept = cell.home, cell.home.deleted
    if cell.allowed and cell.rule.events:  # an erasure changes it
        kept = place.make()
        place.world.must(place.clerk, "DELETE", f"/v1/sessions/{kept.id}")
    ask.names["session_id"] = kept.id


def _homonym(cell: "Cell", ask: "Ask") -> None:
    place, changing = cell.home, cell.allowed and cell.rule.events
    other = place.world.places["A:all" if place.name.startswith("B") else "B:all"]
    homonym = place.world.make_homonym(place, other) if changing else place.homonym
    assert homonym is not None
    ask.names["session_id"] = homonym.id
    if "message_id" in ask.names:
        ask.names["message_id"] = homonym.messages[0]


def _sibling_message(cell: "Cell", ask: "Ask") -> None:
    put(cell, ask, cell.parameter, cell.home.sibling.messages[0])


def _sibling_cursor(cell: "Cell", ask: "Ask") -> None:
    ask.query["cursor"] = cursor_of(cell, cell.home)
    ask.names["session_id"] = cell.home.sibling.id


def _handed_over(cell: "Cell", ask: "Ask") -> None:
    """Version 1 is somebody else's; then the session is given to the caller's user."""
    place = cell.home
    session = place.make(maker=place.clerk, user="u-before-CANARYu3")
    if place.user is not None:
        place.world.must(place.clerk, "PATCH", f"/v1/sessions/{session.id}", {"user_id": place.user})
    ask.names["session_id"] = session.id
    put(cell, ask, cell.parameter, 1)


def _own_message_again(cell: "Cell", ask: "Ask") -> None:
    canary = cell.home.canary
    ask.body = {
        "id": cell.session.messages[0],
        "role": "user",
        "content": f"{canary}said",
        "metadata": {"about": f"{canary}metadata"},
    }


def _own_message_changed(cell: "Cell", ask: "Ask") -> None:
    ask.body["id"] = cell.session.messages[0]


def _foreign_message(cell: "Cell", ask: "Ask") -> None:
    cell.reference = cell.side.session.messages[0]
    ask.body["id"] = cell.reference


def _absent_message(cell: "Cell", ask: "Ask") -> None:
    cell.reference = like(cell.side.session.messages[0])
    ask.body["id"] = cell.reference


def _batch(cell: "Cell", ask: "Ask") -> None:
    talk: list[dict[str, object]] = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    whose = cell.kind.split()[0]
    if whose != "own":
        cell.reference = cell.side.session.messages[0]
        talk[1]["parent_id"] = cell.reference = cell.reference if whose == "foreign" else like(cell.reference)
    ask.body = {"messages": talk} if cell.operation == "appendMessages" else {**ask.body, "messages": talk}


def _operators_key(_: "Cell", ask: "Ask") -> None:
    ask.body = {"operator": True}


def _nobody(_: "Cell", ask: "Ask") -> None:
    ask.body["user_id"] = None


def _retry(cell: "Cell", ask: "Ask") -> None:
    """The key was used before, by the caller or a stranger, with the same request or with another body."""
    key = ask.headers["Idempotency-Key"] = fresh("r")
    if cell.kind == "absent":
        return
    if cell.stranger is None:
        if cell.allowed:
            _use(cell, cell.credential, ask.copy(), key)
        return
    place = cell.stranger
    first = ask.copy()
    if cell.wants_session:
        first.names["session_id"] = place.make().id
    first.headers.pop("X-Tenant-Id", None)
    if cell.operation == "createKey":
        first.body.pop("tenant_id", None)
    _use(cell, _who(cell, place), first, key)


def _use(cell: "Cell", credential: "Credential", first: "Ask", key: str) -> None:
    if "other" in cell.kind:
        tenant = {"tenant_id": first.body["tenant_id"]} if "tenant_id" in first.body else {}
        first.body = {**OTHER_BODY[cell.operation], **tenant}
    first.headers["Idempotency-Key"] = key
    answer = cell.world.wire.ask(first.request(credential))
    assert answer.status == cell.rule.status, (str(cell), answer)


OTHER_BODY = {
    "createSession": {"title": "other"},
    "forkSession": {"title": "other"},
    "appendMessages": {"role": "user", "content": "other"},
    "eraseSession": {"reason": "other"},
    "createKey": {"scopes": ["audit"]},
}

SPECIAL: dict[tuple[str, str], Fill] = {
    ("session_id", "foreign"): _foreign_session,
    ("session_id", "absent"): _absent_session,
    ("session_id", "deleted"): _deleted_session,
    ("session_id", "homonym"): _homonym,
    ("message_id", "sibling"): _sibling_message,
    ("parent_id", "sibling"): _sibling_message,
    ("cursor", "sibling"): _sibling_cursor,
    ("as_of_version", "before"): _handed_over,
    ("version", "before"): _handed_over,
    ("id", "own again"): _own_message_again,
    ("id", "own changed"): _own_message_changed,
    ("id", "foreign message"): _foreign_message,
    ("id", "absent message"): _absent_message,
    ("messages", "own batch"): _batch,
    ("messages", "foreign batch"): _batch,
    ("messages", "absent batch"): _batch,
    ("operator", "own"): _operators_key,
    ("user_id", "null"): _nobody,
    ("Idempotency-Key", ""): _retry,
}
