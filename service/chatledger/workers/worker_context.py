"""What one of several workers is given by their supervisor."""

from collections.abc import Awaitable, Callable

import msgspec

from chatledger.workers.shared_state import Board


class Shared(msgspec.Struct, frozen=True):
    """The same for all workers, but for `scrape`, which asks the supervisor for the metrics of all of them."""

    board: Board
    local_credential: str
    scrape: Callable[[], Awaitable[str]]
