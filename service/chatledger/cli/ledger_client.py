"""Asking a running server: what commands do beside one, such as `chatledger replay`, which waits for its rebuild."""

import http.client
import time
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from chatledger.errors import RefusedToStart
from chatledger.serving.tls import trusting
from chatledger.storage.paths import Address

POLL_S = 0.2
TIMEOUT_S = 60.0
_PATH = "/v1/admin/projections"


class Answered(msgspec.Struct, frozen=True):
    """What is needed of any answer: why, where it is a problem."""

    detail: str = ""


A = TypeVar("A", bound=Answered)


class _Rebuild(msgspec.Struct, frozen=True):
    generation: int
    events_done: int
    events_total: int


class _Projections(Answered, frozen=True):
    generation: int = 0
    rebuild: _Rebuild | None = None


def rebuild(address: Address, progress: Callable[[int, int], None]) -> int:
    """Have the server at *address* build its views anew, and wait until they are swapped in.

    Returns:
        The number of the new generation.

    Raises:
        RefusedToStart: the server refused, does not answer, or gave the rebuild up.
    """
    begun = call(address, "POST", _PATH + "/rebuild", answer=_Projections)
    # A small ledger may be done before the answer is made.
    wanted = begun.generation if begun.rebuild is None else begun.rebuild.generation
    state, total = begun, 0
    while state.rebuild is not None and state.rebuild.generation == wanted:
        total = state.rebuild.events_total
        progress(state.rebuild.events_done, total)
        time.sleep(POLL_S)
        state = call(address, "GET", _PATH, answer=_Projections)
    if state.generation < wanted:
        raise RefusedToStart("The server gave the rebuild up, its log says why; the views are as they were.")
    progress(total, total)
    return wanted


def call(
    address: Address,
    method: str,
    path: str,
    *,
    answer: type[A],
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    about: str = "",
    timeout_s: float = TIMEOUT_S,
) -> A:
    """One request to the server at *address*; *about* stands before the reason of a refusal.

    Raises:
        RefusedToStart: it refused, or does not answer.
    """
    place = urlsplit(address.url).netloc
    connection = http.client.HTTPConnection(place, timeout=timeout_s)
    if address.certificate:
        context = trusting(address.certificate)
        connection = http.client.HTTPSConnection(place, timeout=timeout_s, context=context)
    try:
        credential = {"Authorization": f"Bearer {address.credential}"}
        connection.request(method, path, body, {**(headers or {}), **credential})
        response = connection.getresponse()
        found = msgspec.json.decode(response.read() or b"{}", type=answer)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise RefusedToStart(
            f"The server at {address.url} does not answer: {error or type(error).__name__}."
        ) from error
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        refusal = about + found.detail
        raise RefusedToStart(f"The server at {address.url} refused: {refusal}")
    return found
