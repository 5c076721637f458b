"""How many bytes the requests that are under way may take in memory, all together. For the event loop only."""

from chatledger.errors import Overloaded

BODY_TIMES = 3
"""A body takes so many times its length: in the pieces that came, in one piece, and as what was made of it."""


class ByteBudget:
    """Bytes that are taken, out of so many. Whoever holds some has to release them."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_held = 0
        self.bytes_max = bytes_max

    def hold(self, size_bytes: int, *, own_bytes: int = 0) -> None:
        """Take *size_bytes*, beside the *own_bytes* that the same request holds already.

        A request that is alone gets what it asks for, so that there is none that can never be served.

        Raises:
            Overloaded: with what others hold it is too much; then nothing is taken.
        """
        if size_bytes and self.bytes_held + size_bytes > self.bytes_max and self.bytes_held > own_bytes:
            raise Overloaded("Too many bytes of requests are under way.")
        self.bytes_held += size_bytes

    def keep(self, size_bytes: int) -> None:
        """Take what is in memory in any case, whether there is room for it or not."""
        self.bytes_held += size_bytes

    def release(self, size_bytes: int) -> None:
        """Give back what was taken."""
        self.bytes_held -= size_bytes
