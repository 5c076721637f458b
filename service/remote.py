"""Asking a running server to build its views anew, and waiting for it: `chatledger replay` beside a server."""

import http.client
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from service.errors import RefusedToStart

POLL_S = 0.2
TIMEOUT_S = 60.0
_PATH = "/v1/admin/projections"


class _Rebuild(msgspec.Struct, frozen=True):
    generation: int
    events_done: int
    events_total: int


class _Answer(msgspec.Struct, frozen=True):
    """What is needed of the answers, a problem's too."""

    generation: int = 0
    rebuild: _Rebuild | None = None
    detail: str = ""


def rebuild(url: str, progress: Callable[[int, int], None]) -> int:
    """Have the server at *url* build its views anew, and wait until they are swapped in.

    Returns:
        The number of the new generation.

    Raises:
        RefusedToStart: the server refused, does not answer, or gave the rebuild up.
    """
    begun = _call(url, "POST", _PATH + "/rebuild")
    # A small ledger may be done before the answer is made.
    wanted = begun.generation if begun.rebuild is None else begun.rebuild.generation
    state, total = begun, 0
    while state.rebuild is not None and state.rebuild.generation == wanted:
        total = state.rebuild.events_total
        progress(state.rebuild.events_done, total)
        time.sleep(POLL_S)
        state = _call(url, "GET", _PATH)
    if state.generation < wanted:
        raise RefusedToStart("The server gave the rebuild up, its log says why; the views are as they were.")
    progress(total, total)
    return wanted


def _call(url: str, method: str, path: str) -> _Answer:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        found = msgspec.json.decode(answer.read(), type=_Answer)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise RefusedToStart(f"The server at {url} does not answer: {error or type(error).__name__}.") from error
    finally:
        connection.close()
    if answer.status >= http.client.BAD_REQUEST:
        raise RefusedToStart(f"The server at {url} refused: {found.detail}")
    return found
