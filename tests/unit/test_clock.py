"""Times: RFC 3339 outside, microseconds inside."""

import datetime as dt
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatledger.domain.timestamps import EPOCH, format_us, now_us, parse_us, to_us

YEAR_1_US = -62_135_596_800_000_000
YEAR_9999_US = 253_402_300_799_999_999
times_us = st.integers(YEAR_1_US, YEAR_9999_US)


@given(times_us)
def test_a_formatted_time_is_read_back_to_the_microsecond(time_us: int) -> None:
    """Formatting and parsing is a round trip over the years 1 to 9999."""
    assert parse_us(format_us(time_us)) == time_us


@given(times_us, times_us)
def test_formatted_times_sort_as_the_times_do(one: int, other: int) -> None:
    """All have the same width, so text order is time order."""
    assert (format_us(one) < format_us(other)) == (one < other)


@given(moment=st.datetimes(timezones=st.timezones()), between=st.sampled_from("T t"), lower=st.booleans())
def test_any_offset_is_read_as_the_same_moment(moment: dt.datetime, between: str, *, lower: bool) -> None:
    """Whatever offset and letters RFC 3339 allows, the moment is the same."""
    offset = moment.utcoffset()
    seconds = 0 if offset is None else offset // dt.timedelta(seconds=1)
    zone = dt.timezone(dt.timedelta(minutes=seconds // 60))
    local = moment.replace(tzinfo=zone)
    expected = (local - EPOCH) // dt.timedelta(microseconds=1)
    text = local.isoformat(sep=between)
    if expected in range(YEAR_1_US, YEAR_9999_US + 1):
        assert parse_us(text.lower() if lower else text) == expected


@pytest.mark.parametrize(
    ("text", "time_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:30:00-00:30", 0),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1970-01-01T00:00:00.1234567Z", 123_456),
        ("1970-01-01T00:00:00.123456999999Z", 123_456),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2024-02-29T12:00:00Z", 1_709_208_000_000_000),
        ("0001-01-01T00:00:00Z", YEAR_1_US),
        ("9999-12-31T23:59:59.999999Z", YEAR_9999_US),
    ],
)
def test_an_rfc_3339_time_is_read(text: str, time_us: int) -> None:
    """Section 5.6, fractions of any length, finer digits than microseconds cut off."""
    assert parse_us(text) == time_us


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2024-05-15",
        "2024-05-15T15:00:00",
        "2024-05-15T15:00Z",
        "20240515T150000Z",
        "2024-W20-3T15:00:00Z",
        "2024-05-15T15:00:00,5Z",
        "2024-05-15T15:00:00.Z",
        "2024-05-15T15:00:00+0100",
        "2024-05-15T15:00:00+01",
        "2024-05-15T15:00:00+24:00",
        "2024-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-05-15T24:00:00Z",
        "2024-05-15T15:60:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2024-05-15T15:00:00Z\n",
        " 2024-05-15T15:00:00Z",
        "\u0662\u0660\u0662\u0664-05-15T15:00:00Z",
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    """No other form, no date that does not exist, no year outside of 1 to 9999 of UTC."""
    with pytest.raises(ValueError, match=r".+"):
        parse_us(text)


def test_a_time_has_six_digits_and_z() -> None:
    """The form of every answer; years below 1000 keep their zeros."""
    assert format_us(1_715_785_200_000_000) == "2024-05-15T15:00:00.000000Z"
    assert format_us(-1) == "1969-12-31T23:59:59.999999Z"
    assert format_us(YEAR_1_US) == "0001-01-01T00:00:00.000000Z"


def test_now_is_now() -> None:
    """Microseconds of the wall clock."""
    before = time.time_ns() // 1000
    assert before <= now_us() <= time.time_ns() // 1000
    assert to_us(dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)) == 1_000_000
