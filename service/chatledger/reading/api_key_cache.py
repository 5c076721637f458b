"""The API keys as one of several workers knows them: read again as soon as any of them has changed one."""

import structlog

from chatledger.domain.api_keys import KeyRing
from chatledger.errors import Overloaded
from chatledger.ledger.api_key_store import read_keys
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors
from chatledger.storage.paths import Location
from chatledger.workers.shared_state import Board

log = structlog.get_logger("chatledger")


class SharedKeys:
    """A read-only connection of the event loop's own: keys change rarely, and then every request has to know."""

    def __init__(self, location: Location, settings: Settings, board: Board) -> None:
        self._board = board
        self._connection = ledger_file.open_ledger_reader(location, settings)
        self._counted = -1
        self._ring = KeyRing()

    def current(self) -> KeyRing:
        """The keys that there are now.

        Raises:
            Overloaded: they cannot be read.
        """
        counted = self._board.keys  # before reading: what changes meanwhile is read the next time
        if counted != self._counted:
            try:
                self._ring = read_keys(self._connection)
            except sql_errors.SQLError as error:
                log.exception("keys cannot be read")
                raise Overloaded("The keys cannot be read.") from error
            self._counted = counted
        return self._ring

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
