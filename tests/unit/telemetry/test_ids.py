"""Ids of requests and commands: never the same twice, and in the order of the time at which they were made."""

import pytest

from infra.telemetry import ids
from infra.telemetry.ids import new_id


def test_ids_are_thirty_two_digits_and_never_the_same() -> None:
    made = {new_id() for _ in range(10_000)}
    assert len(made) == 10_000
    assert {len(each) for each in made} == {32}
    assert all(int(each, 16) for each in made)


def test_a_later_id_sorts_behind_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1, 2, 2**40, 2**48 - 1):
        monkeypatch.setattr(ids, "time_ns", lambda now=milliseconds: now * 1_000_000 + 999_999)
        made.append(new_id())
    assert made == sorted(made)
    assert [each[:12] for each in made] == ["000000000001", "000000000002", "010000000000", "ffffffffffff"]
