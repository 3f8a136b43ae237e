"""Lists over several shards: whatever the times and whatever is written meanwhile, each row is shown once, in order."""

import asyncio
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.identity import Realm
from contracts.placement import Placement
from query.ports import BadCursor
from query.readers.models import Listing, RedisReadModels, Row
from query.readers.placed import PlacedReadModels

PLACEMENT = Placement.of((0, 1, 2), spread={"giant": {0: "0-99", 1: "100-600", 2: "601-1023"}})
GIANT = Realm("giant", "shop")

# What is claimed on the shards: of each claim the minute, in the order of the shard's log.
Shards = st.lists(st.lists(st.integers(0, 20), max_size=8), min_size=3, max_size=3)


class Shown(NamedTuple):
    """What a list shows of a claim, and where that lies."""

    shard: int
    first: int
    minute: int


class Kept(RedisReadModels):
    """One shard's list, kept in memory."""

    def __init__(self, shard: int, minutes: list[int]) -> None:
        self._of = shard
        self.kept: list[Row] = []
        for minute in minutes:
            self.claim(minute)

    def claim(self, minute: int) -> None:
        first = 1 + 3 * len(self.kept)
        self.kept.append(Row(first, {"claimed_at": f"{minute:02}", "shard": self._of, "first": first}))

    async def rows(self, listing: Listing, *, below: int | None, limit: int) -> list[Row]:
        found = [row for row in self.kept if below is None or row.first < below]
        return found[::-1][:limit]


def page(models: PlacedReadModels, cursor: str | None, limit: int) -> tuple[list[Shown], str | None]:
    shown = asyncio.run(models.user_coupons(GIANT, "ann", cursor=cursor, limit=limit))
    return [Shown(row["shard"], row["first"], int(row["claimed_at"])) for row in shown.items], shown.next_cursor


@given(shards=Shards, meanwhile=Shards, limit=st.integers(1, 9))
def test_every_row_is_shown_once_whatever_is_claimed_between_two_pages(
    shards: list[list[int]], meanwhile: list[list[int]], limit: int
) -> None:
    kept = [Kept(shard, minutes) for shard, minutes in enumerate(shards)]
    models = PlacedReadModels(PLACEMENT, dict(enumerate(kept)))
    expected = {(shard, row.first) for shard, one in enumerate(kept) for row in one.kept}
    shown, cursor = page(models, None, limit)
    for shard, minutes in enumerate(meanwhile):
        for minute in minutes:
            kept[shard].claim(minute)
    while cursor is not None:
        more, cursor = page(models, cursor, limit)
        assert 0 < len(more) <= limit
        shown += more
    assert sorted((each.shard, each.first) for each in shown) == sorted(expected)


@given(shards=Shards, limit=st.integers(1, 9))
def test_rows_are_in_the_order_of_their_times_and_of_their_shards_log(shards: list[list[int]], limit: int) -> None:
    ascending = [sorted(minutes) for minutes in shards]
    models = PlacedReadModels(PLACEMENT, {shard: Kept(shard, minutes) for shard, minutes in enumerate(ascending)})
    shown, cursor = page(models, None, limit)
    while cursor is not None:
        more, cursor = page(models, cursor, limit)
        shown += more
    for before, after in pairwise(shown):
        assert before.minute >= after.minute
        assert before.shard != after.shard or before.first > after.first


@pytest.mark.parametrize("other", [{"giant": {0: "0-511", 2: "512-1023"}}, {"giant": {0: "0-511", 1: "512-1023"}}])
def test_a_cursor_of_other_shards_is_refused(other: dict[str, Any]) -> None:
    kept: dict[int, RedisReadModels] = {shard: Kept(shard, [1, 2, 3]) for shard in (0, 1, 2)}
    _, cursor = page(PlacedReadModels(Placement.of(kept, spread=other), kept), None, 1)
    with pytest.raises(BadCursor):
        page(PlacedReadModels(PLACEMENT, kept), cursor, 1)
