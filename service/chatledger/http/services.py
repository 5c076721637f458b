"""What the handlers of one application share."""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable

import msgspec
from prometheus_client import CollectorRegistry

from chatledger.application.forks import Forks
from chatledger.application.transparency_log import TransparencyLog
from chatledger.errors import InvalidRequest
from chatledger.http.access_hook import Doors
from chatledger.http.body_reader import Bodies
from chatledger.reading.readers import Readers
from chatledger.settings import Settings
from chatledger.views.live_views import Views
from chatledger.writing.writer import Writer

_POSITION_BYTES = 8
_TAG_BYTES = 12


class Services(msgspec.Struct, frozen=True):
    """The running parts, made in `app.py`."""

    settings: Settings
    writer: Writer
    readers: Readers
    views: Views
    forks: Forks
    log: TransparencyLog
    cursors: "Cursors"
    doors: Doors
    bodies: Bodies
    registry: CollectorRegistry
    scrape: Callable[[], Awaitable[bytes]]
    """The metrics as text: of all workers, where there are several."""


class Cursors:
    """Opaque page cursors: a position, bound to the tenant and the query that it was given out for."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def write(self, position: int, *bound_to: str | None) -> str:
        """The cursor of *position* in the listing that *bound_to* describes."""
        place = position.to_bytes(_POSITION_BYTES, "big")
        return urlsafe_b64encode(place + self._tag(place, bound_to)).decode().rstrip("=")

    def read(self, cursor: str, *bound_to: str | None) -> int:
        """The position in *cursor*.

        Raises:
            InvalidRequest: it is broken, or was given out for another tenant or query.
        """
        try:
            raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        position = int.from_bytes(raw[:_POSITION_BYTES], "big")
        # The decoder passes over foreign characters; what we would not have written ourselves is broken.
        if not hmac.compare_digest(cursor.encode(), self.write(position, *bound_to).encode()):
            raise InvalidRequest("The cursor is malformed, or belongs to another query.", field="cursor")
        return position

    def _tag(self, place: bytes, bound_to: tuple[str | None, ...]) -> bytes:
        message = place + msgspec.json.encode(bound_to)
        return hmac.digest(self._secret, message, hashlib.sha256)[:_TAG_BYTES]
