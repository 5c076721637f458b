"""How much one caller may send: token buckets, kept by verified credentials and tenants, in bounded memory.

Pure: the time comes with each call. For one thread, the event loop's.
"""

import hashlib
import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import msgspec

from chatledger.domain.access import LOCAL, OPEN, Caller
from chatledger.errors import RateLimited
from chatledger.settings import Settings
from chatledger.workers.shared_state import BUCKET_WORDS, BUCKETS, Board

BURST_S = 5
"""How many seconds' worth of requests may come at once, behind a pause."""
BUCKETS_MAX = 10_000
"""The most callers that are remembered; 2 MB."""
DAY_S = 24 * 60 * 60
WAYS = 8
"""The rows of the workers' table that a bucket may have."""

REASONS = ("key", "tenant", "bytes")
"""What a caller can be refused for: its own requests, its tenant's, its tenant's bytes."""


class Allowance(msgspec.Struct, frozen=True, gc=False):
    """What an answer says about its caller's limit (draft-ietf-httpapi-ratelimit-headers-06).

    Of `limit` units `remaining` are left; in `reset_s` seconds all of them will be there again, or, where none is
    left, the first one.
    """

    limit: int
    remaining: int
    reset_s: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`."""
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset_s),
        ]


class _Bucket:
    """A bucket of *size* tokens that gets *per_s* a second. It can be in debt, which is paid first."""

    __slots__ = ("at_s", "per_s", "size", "tokens")

    def __init__(self, size: float, per_s: float, now_s: float) -> None:
        self.size = self.tokens = size
        self.per_s = per_s
        self.at_s = now_s

    def fill(self, now_s: float) -> None:
        """Add what has come since; a clock that goes back adds nothing."""
        if now_s > self.at_s:
            self.tokens = min(self.size, self.tokens + (now_s - self.at_s) * self.per_s)
            self.at_s = now_s

    def wait_s(self, wanted: float) -> int:
        """Whole seconds until there are *wanted* tokens, at least 1."""
        return max(1, math.ceil((wanted - self.tokens) / self.per_s))

    def is_full_at(self, now_s: float) -> bool:
        """Whether it may be forgotten: a new one would be like it."""
        return self.tokens + (now_s - self.at_s) * self.per_s >= self.size

    def allowance(self) -> Allowance:
        remaining = max(0, math.floor(self.tokens))
        reset_s = math.ceil((self.size - self.tokens) / self.per_s) if remaining else self.wait_s(1)
        return Allowance(int(self.size), remaining, reset_s)


class Limits:
    """The buckets of one process."""

    def __init__(self, settings: Settings) -> None:
        self.refused = dict.fromkeys(REASONS, 0)
        """How many requests were refused, by reason."""
        self._key_per_s = settings.key_requests_per_s
        self._tenant_per_s = settings.tenant_requests_per_s
        self._bytes_per_day = settings.tenant_bytes_per_day
        self._buckets: dict[Hashable, _Bucket] = {}
        self._now_s = 0.0

    @property
    def are_off(self) -> bool:
        """Whether nothing is limited."""
        return not (self._key_per_s or self._tenant_per_s or self._bytes_per_day)

    def admit(self, caller: Caller, *, size_bytes: int, now_s: float) -> Allowance | None:
        """Take a request with a body of *size_bytes* (0 where that is not known yet) off what its caller has left.

        A refused request takes nothing, so that a key beyond its own limit does not use up its tenant's. A body is let
        in while anything is left of the day's bytes, and may go beyond: one that is larger than the rest could
        otherwise never be sent.

        Returns:
            What is left of the requests' limit that is nearest to its end; None where requests have no limit.

        Raises:
            RateLimited: one of the limits is used up.
        """
        if self.are_off or caller.credential == LOCAL.credential:
            return None
        self._now_s = now_s
        requests = self._buckets_of_requests(caller)
        for reason, bucket in requests:
            if bucket.tokens < 1:
                raise self._refusal(reason, bucket, "requests a second")
        stored = self._bucket_of_bytes(caller)
        if stored is not None:
            if stored.tokens < 1:
                raise self._refusal("bytes", stored, "bytes a day")
            stored.tokens -= size_bytes
        for _, bucket in requests:
            bucket.tokens -= 1
        tightest = min((bucket for _, bucket in requests), key=lambda bucket: bucket.tokens, default=None)
        return None if tightest is None else tightest.allowance()

    def charge(self, caller: Caller, size_bytes: int) -> None:
        """Take bytes that came without a Content-Length off the tenant's day, behind `admit`."""
        if self._bytes_per_day and caller.credential != LOCAL.credential:
            stored = self._bucket_of_bytes(caller)
            if stored is not None:
                stored.tokens -= size_bytes

    def _buckets_of_requests(self, caller: Caller) -> list[tuple[str, _Bucket]]:
        found = []
        if self._key_per_s:
            # A user has many tokens, one after the other.
            key = caller.credential if caller.user_id is None else (caller.tenant_id, caller.user_id)
            found.append(("key", self._bucket(("key", key), self._key_per_s * BURST_S, self._key_per_s)))
        if self._tenant_per_s and (tenant := _tenant(caller)) is not None:
            bucket = self._bucket(("tenant", tenant), self._tenant_per_s * BURST_S, self._tenant_per_s)
            found.append(("tenant", bucket))
        return found

    def _bucket_of_bytes(self, caller: Caller) -> _Bucket | None:
        tenant = _tenant(caller)
        if not self._bytes_per_day or tenant is None:
            return None
        return self._bucket(("bytes", tenant), self._bytes_per_day, self._bytes_per_day / DAY_S)

    def _bucket(self, name: Hashable, size: float, per_s: float) -> _Bucket:
        bucket = self._buckets.pop(name, None)
        if bucket is None:
            if len(self._buckets) >= BUCKETS_MAX:
                self._forget_some()
            bucket = _Bucket(size, per_s, self._now_s)
        else:
            bucket.fill(self._now_s)
        self._buckets[name] = bucket  # last: the first is the one that was not used for longest
        return bucket

    def _forget_some(self) -> None:
        """Forget full buckets, or else the tenth that was not used for longest: rarely, so that it costs little."""
        kept = {name: bucket for name, bucket in self._buckets.items() if not bucket.is_full_at(self._now_s)}
        beyond = len(kept) - BUCKETS_MAX * 9 // 10
        self._buckets = dict(list(kept.items())[max(0, beyond) :])

    def _refusal(self, reason: str, bucket: _Bucket, unit: str) -> RateLimited:
        self.refused[reason] += 1
        whose = "credential" if reason == "key" else "tenant"
        limit = self._bytes_per_day if reason == "bytes" else int(bucket.per_s)
        wait_s = bucket.wait_s(1)
        return RateLimited(
            f"The {whose} may send {limit} {unit}; more is left in {wait_s} s.",
            retry_after_s=wait_s,
            limit=int(bucket.size),
        )


class _SharedBucket(_Bucket):
    """A row of the board's table."""

    __slots__ = ("_at", "_values")

    def __init__(self, board: Board, row: int, size: float, per_s: float) -> None:
        self._values, self._at = board.bucket_values, row * BUCKET_WORDS
        self.size, self.per_s = size, per_s

    @property
    def tokens(self) -> float:
        return self._values[self._at + 1]

    @tokens.setter
    def tokens(self, tokens: float) -> None:
        self._values[self._at + 1] = tokens

    @property
    def at_s(self) -> float:
        return self._values[self._at + 2]

    @at_s.setter
    def at_s(self, at_s: float) -> None:
        self._values[self._at + 2] = at_s


class SharedLimits(Limits):
    """The buckets of all workers, on their board: a caller has the same left whichever of them it reaches.

    A bucket has one of eight rows, by its name's hash; where all are taken, the one that was not used for longest goes.
    """

    def __init__(self, settings: Settings, board: Board, secret: str) -> None:
        super().__init__(settings)
        self._board = board
        self._secret = secret.encode()[:64]

    def admit(self, caller: Caller, *, size_bytes: int, now_s: float) -> Allowance | None:
        """As there."""
        if self.are_off:
            return None
        with self._locked():
            return super().admit(caller, size_bytes=size_bytes, now_s=now_s)

    def charge(self, caller: Caller, size_bytes: int) -> None:
        """As there."""
        with self._locked():
            super().charge(caller, size_bytes)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._board.lock_buckets()
        try:
            yield
        finally:
            self._board.unlock_buckets()

    def _bucket(self, name: Hashable, size: float, per_s: float) -> _Bucket:
        digest = hashlib.blake2b(repr(name).encode(), digest_size=8, key=self._secret).digest()
        number = int.from_bytes(digest, "big", signed=True) or 1
        names, values = self._board.bucket_names, self._board.bucket_values
        first = number % (BUCKETS // WAYS) * WAYS
        rows = range(first, first + WAYS)
        row = next((row for row in rows if names[row * BUCKET_WORDS] == number), None)
        if row is not None:
            bucket = _SharedBucket(self._board, row, size, per_s)
            bucket.fill(self._now_s)
            return bucket
        row = min(rows, key=lambda row: values[row * BUCKET_WORDS + 2])
        names[row * BUCKET_WORDS] = number
        bucket = _SharedBucket(self._board, row, size, per_s)
        bucket.tokens, bucket.at_s = size, self._now_s
        return bucket


def _tenant(caller: Caller) -> str | None:
    """Whose bucket it is. While nobody has keys all tenants share one: anybody can make up tenants."""
    return "" if caller.credential == OPEN.credential else caller.tenant_id
