"""Token buckets: what comes at once, what comes in the long run, for whom, and that memory stays bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatledger.auth import rate_limits
from chatledger.auth.rate_limits import BURST_S, DAY_S, Allowance, Limits
from chatledger.domain.access import LOCAL, OPEN, OPERATOR_SCOPES, TENANT_SCOPES, USER_SCOPES, Caller
from chatledger.errors import RateLimited
from chatledger.settings import Settings


def key(name: str, tenant: str | None = "t") -> Caller:
    """A key's caller."""
    scopes = frozenset(TENANT_SCOPES) if tenant else OPERATOR_SCOPES
    return Caller(actor=f"key:{name}", credential=name, scopes=scopes, tenant_id=tenant)


def user(name: str, tenant: str = "t") -> Caller:
    """A user's caller: all of them have one word as their credential."""
    return Caller(actor="user", credential="token", scopes=USER_SCOPES, tenant_id=tenant, user_id=name)


def burst(made: Limits, caller: Caller, *, now_s: float = 0.0, size_bytes: int = 0) -> int:
    """How many requests pass at once."""
    for count in range(10_000):
        try:
            made.admit(caller, size_bytes=size_bytes, now_s=now_s)
        except RateLimited:
            return count
    raise AssertionError("there is no limit")


def test_nothing_is_limited_by_default() -> None:
    """And nothing is said about it."""
    made = Limits(Settings())
    assert made.are_off
    assert made.admit(key("k"), size_bytes=10**9, now_s=0) is None


def test_a_burst_passes_and_then_the_rate() -> None:
    """A few seconds' worth at once, then so many a second."""
    made = Limits(Settings(key_requests_per_s=10))
    assert burst(made, key("k")) == 10 * BURST_S
    assert burst(made, key("k"), now_s=1.0) == 10
    assert burst(made, key("k"), now_s=1.05) == 0
    assert burst(made, key("k"), now_s=1000.0) == 10 * BURST_S


def test_each_key_has_its_own_limit() -> None:
    """One that is used up takes nothing from another, though both are of one tenant."""
    made = Limits(Settings(key_requests_per_s=1))
    assert burst(made, key("a")) == BURST_S
    assert burst(made, key("b")) == BURST_S


def test_users_are_told_apart_by_tenant_and_name() -> None:
    """Their credential is the same word for all."""
    made = Limits(Settings(key_requests_per_s=1))
    for caller in (user("u"), user("v"), user("u", tenant="other")):
        assert burst(made, caller) == BURST_S
        assert burst(made, caller) == 0


def test_a_tenants_limit_is_shared_by_its_keys() -> None:
    """And not by other tenants'."""
    made = Limits(Settings(tenant_requests_per_s=1))
    assert burst(made, key("a")) == BURST_S
    assert burst(made, key("b")) == 0
    assert burst(made, key("c", tenant="other")) == BURST_S


def test_a_refused_key_takes_nothing_from_its_tenant() -> None:
    """However often it tries."""
    made = Limits(Settings(key_requests_per_s=1, tenant_requests_per_s=2))
    assert burst(made, key("greedy")) == BURST_S
    for _ in range(100):
        with pytest.raises(RateLimited, match="credential"):
            made.admit(key("greedy"), size_bytes=0, now_s=0)
    assert burst(made, key("modest")) == BURST_S


def test_while_there_are_no_keys_all_share_one_bucket() -> None:
    """Whatever tenants they name: anybody can make up tenants."""
    made = Limits(Settings(key_requests_per_s=1, tenant_requests_per_s=1, tenant_bytes_per_day=100))
    assert burst(made, OPEN) == BURST_S
    assert burst(made, OPEN) == 0
    assert burst(made, OPEN) == 0


def test_an_operator_without_a_tenant_has_only_its_own_limit() -> None:
    """There is no tenant to take it from."""
    made = Limits(Settings(key_requests_per_s=2, tenant_requests_per_s=1))
    assert burst(made, key("op", tenant=None)) == 2 * BURST_S


def test_commands_on_the_machine_are_not_limited() -> None:
    """An erasure of many sessions would otherwise stop half way."""
    made = Limits(Settings(key_requests_per_s=1, tenant_bytes_per_day=1))
    for _ in range(100):
        assert made.admit(LOCAL, size_bytes=100, now_s=0) is None
    made.charge(LOCAL, 100)
    assert burst(made, key("k"), size_bytes=0) == BURST_S


def test_bytes_are_counted_for_the_tenant() -> None:
    """The last body may go beyond, and what was too much is paid first."""
    made = Limits(Settings(tenant_bytes_per_day=DAY_S))  # one a second
    assert burst(made, key("a"), size_bytes=DAY_S - 10) == 2
    with pytest.raises(RateLimited, match="bytes a day") as refused:
        made.admit(key("b"), size_bytes=1, now_s=0)
    assert refused.value.retry_after_s == DAY_S - 20 + 1
    assert burst(made, key("b"), now_s=DAY_S - 20, size_bytes=1) == 0
    assert burst(made, key("b"), now_s=DAY_S - 18, size_bytes=1) == 2


def test_bytes_without_a_length_are_charged_afterwards() -> None:
    """As if they had been said at once."""
    made = Limits(Settings(tenant_bytes_per_day=100))
    made.admit(key("k"), size_bytes=0, now_s=0)
    made.charge(key("k"), 100)
    assert burst(made, key("k")) == 0


def test_the_allowance_is_the_nearest_limit() -> None:
    """Its size, what is left, and when all is there again."""
    made = Limits(Settings(key_requests_per_s=10, tenant_requests_per_s=4))
    assert made.admit(key("a"), size_bytes=0, now_s=0) == Allowance(4 * BURST_S, 4 * BURST_S - 1, 1)
    for _ in range(4):
        made.admit(key("b"), size_bytes=0, now_s=0)
    assert made.admit(key("b"), size_bytes=0, now_s=0) == Allowance(20, 14, 2)
    headers = dict(Allowance(20, 14, 2).headers())
    assert headers == {b"ratelimit-limit": b"20", b"ratelimit-remaining": b"14", b"ratelimit-reset": b"2"}


def test_a_refusal_says_when_to_come_again() -> None:
    """And is right: a moment before it is refused, and then it is not."""
    made = Limits(Settings(key_requests_per_s=1))
    burst(made, key("k"))
    with pytest.raises(RateLimited) as refused:
        made.admit(key("k"), size_bytes=0, now_s=0.0)
    assert (refused.value.retry_after_s, refused.value.limit) == (1, BURST_S)
    assert burst(made, key("k"), now_s=0.9) == 0
    assert burst(made, key("k"), now_s=1.0) == 1


def test_refusals_are_counted_by_reason() -> None:
    """For /metrics."""
    made = Limits(Settings(key_requests_per_s=1, tenant_requests_per_s=2, tenant_bytes_per_day=100))
    burst(made, key("a"))
    burst(made, key("b"))
    burst(made, key("c"))
    burst(made, key("d", tenant="u"), size_bytes=100)
    assert made.refused == {"key": 2, "tenant": 1, "bytes": 1}


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """And takes nothing."""
    made = Limits(Settings(key_requests_per_s=1))
    assert burst(made, key("k"), now_s=100) == BURST_S
    assert burst(made, key("k"), now_s=50) == 0
    assert burst(made, key("k"), now_s=101) == 1


def test_the_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full ones go first, then those that were not used for longest."""
    monkeypatch.setattr(rate_limits, "BUCKETS_MAX", 100)
    made = Limits(Settings(key_requests_per_s=1))
    for number in range(1000):
        made.admit(user(f"u{number}"), size_bytes=0, now_s=0)
        assert len(made._buckets) <= 100
    assert burst(made, user("u999")) == BURST_S - 1  # still known
    for number in range(101):
        made.admit(user(f"later{number}"), size_bytes=0, now_s=1000)
    assert len(made._buckets) <= 101
    assert ("key", ("t", "u999")) not in made._buckets


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.integers(1, 20))
def test_over_any_time_no_more_pass_than_burst_and_rate(pauses_s: list[float], rate: int) -> None:
    """The law of the bucket, from the start to any moment."""
    made = Limits(Settings(key_requests_per_s=rate))
    now_s, passed = 0.0, 0
    for pause_s in pauses_s:
        now_s += pause_s
        try:
            made.admit(key("k"), size_bytes=0, now_s=now_s)
            passed += 1
        except RateLimited:
            continue
        assert passed <= rate * (BURST_S + now_s) + 1e-6
