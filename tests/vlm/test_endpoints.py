"""Addresses of servers, and which of several is asked next."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tagmoe.errors import UsageError
from tagmoe.vlm import endpoints


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://host/api/v3/", "https://host/api/v3"),
        ("http://[::1]:80/v1/chat/completions", "http://[::1]:80/v1"),
    ],
)
def test_addresses(given: str, address: str) -> None:
    assert endpoints.base_url(given) == address


@pytest.mark.parametrize(
    "given", ["", "127.0.0.1:8000", "ftp://host/v1", "http://", "http://host:port/v1", "http://h:99999"]
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(UsageError, match="http://"):
        endpoints.base_url(given)


def test_the_rest_of_a_failing_endpoint_grows_and_ends_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(endpoints.time, "monotonic", lambda: now[0])
    first, second = endpoints.Endpoint("http://a/v1"), endpoints.Endpoint("http://b/v1")
    rests = []
    for _ in range(8):
        first.failed(now[0], gone=True)
        first.failed(now[0] - 1, gone=True)  # of the same outage
        started = now[0]
        while first.rests:
            assert endpoints.choose([first, second]) is second
            now[0] += 0.25
        rests.append(now[0] - started)
        second.in_flight = 1
        assert endpoints.choose([first, second]) is first
        assert endpoints.choose([first, second]) is second  # one alone finds out
        second.in_flight = 0
    assert rests[0] <= 1
    assert all(after > before for before, after in pairwise(rests[:6]))
    assert max(rests) <= 60
    first.worked()
    assert not first.rests
