"""Times: integers of microseconds since the epoch inside, RFC 3339 in UTC with six digits and `Z` outside."""

import datetime as dt
import re
import time
from functools import lru_cache

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_US_PER_S = 1_000_000

# RFC 3339 section 5.6, with the lower-case letters and the space that it allows. `fromisoformat` alone would
# take much more: week dates, the basic format, a comma, times without an offset.
_is_rfc3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,12})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
).fullmatch


def to_us(moment: dt.datetime) -> int:
    """Microseconds since the epoch of an aware *moment*."""
    return (moment - EPOCH) // dt.timedelta(microseconds=1)


_MIN_US = to_us(dt.datetime.min.replace(tzinfo=dt.UTC))
_MAX_US = to_us(dt.datetime.max.replace(tzinfo=dt.UTC))


def now_us() -> int:
    """Microseconds since the epoch by the wall clock, which may jump: information, never order."""
    return time.time_ns() // 1000


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    # Formatting a date costs over a microsecond and neighbours in the ledger share their second.
    return (EPOCH + dt.timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


@lru_cache(maxsize=128)  # the events of one group share their time
def format_us(time_us: int) -> str:
    """RFC 3339 section 5.6 with microseconds: `2024-05-15T15:00:00.000000Z`."""
    seconds, fraction_us = divmod(time_us, _US_PER_S)
    return f"{_second(seconds)}.{fraction_us:06d}Z"


def parse_us(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time with an offset; finer digits are cut off.

    Raises:
        ValueError: *text* is no such time, has no offset (its meaning would depend on a place), or is
            outside of the years 1 to 9999 of UTC.
    """
    if not _is_rfc3339(text):
        raise ValueError("expected an RFC 3339 time with its offset, such as 2024-05-15T15:00:00.000000Z")
    time_us = to_us(dt.datetime.fromisoformat(text.upper()))
    if not _MIN_US <= time_us <= _MAX_US:
        raise ValueError("the time is outside of the years 1 to 9999 of UTC")
    return time_us
