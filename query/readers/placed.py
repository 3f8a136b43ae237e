"""Reads the models of several shards as if they were one: a thing where it lies, a list merged over its shards."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice

from contracts.identity import Realm
from contracts.placement import Placement
from query.ports import Page, ReadModels, View
from query.readers.cursors import decode_cursor, encode_cursor
from query.readers.models import Listing, RedisReadModels, Row, templates_of, wallet_of


class PlacedReadModels:
    """Implements :class:`query.ports.ReadModels` over the models of each shard.

    Lists show the latest first, by the time at which a coupon was claimed or a template created; rows of one shard
    stay in the order of its log. A cursor says where the page ended on each shard: what is written between two pages
    neither repeats a row nor hides one.
    """

    def __init__(self, placement: Placement, by_shard: Mapping[int, RedisReadModels]) -> None:
        self._placement = placement
        self._by_shard = by_shard

    async def user_coupons(self, realm: Realm, user_id: str, *, cursor: str | None, limit: int) -> Page:
        """A user's coupons on all shards of the realm, latest claim first. Raises BadCursor."""
        return await self._page(wallet_of(realm, user_id), "claimed_at", cursor=cursor, limit=limit)

    async def coupon(self, realm: Realm, coupon_id: str) -> View | None:
        """One coupon."""
        return await self._by_shard[self._placement.shard_of_coupon(realm, coupon_id)].coupon(realm, coupon_id)

    async def templates(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """All templates on all shards of the realm, latest first, without their terms. Raises BadCursor."""
        return await self._page(templates_of(realm), "created_at", cursor=cursor, limit=limit)

    async def template(self, realm: Realm, template_id: str) -> View | None:
        """Terms, status and availability of one template."""
        return await self._at(realm, template_id).template(realm, template_id)

    async def order(self, realm: Realm, order_id: str) -> View | None:
        """One order: what was told, what is held, where its saga stands and why."""
        return await self._at(realm, order_id).order(realm, order_id)

    async def budget(self, realm: Realm, budget_id: str) -> View | None:
        """One budget by period, as the shard that it lives on knows it."""
        return await self._at(realm, budget_id).budget(realm, budget_id)

    def _at(self, realm: Realm, key: str) -> RedisReadModels:
        return self._by_shard[self._placement.shard_of(realm, key)]

    async def _page(self, listing: Listing, began: str, *, cursor: str | None, limit: int) -> Page:
        shards = self._placement.shards_of(listing.realm)
        if len(shards) == 1:
            return await self._by_shard[shards[0]].page(listing, cursor=cursor, limit=limit)
        name = "+".join((listing.name, *map(str, shards)))  # A cursor means nothing to other shards.
        read = await asyncio.gather(
            *(
                self._by_shard[shard].rows(listing, below=end, limit=limit + 1)
                for shard, end in zip(shards, _ends(name, cursor, len(shards)), strict=True)
            )
        )
        rows = list(islice(_latest_first(read, began), limit + 1))
        # Where nothing of a shard is shown yet, the next page goes on with what was its latest row just now.
        reached = [following[0].first + 1 if following else 0 for following in read]
        for number, row in rows[:limit]:
            reached[number] = row.first
        items = tuple(row.shown() for _, row in rows[:limit] if row.document is not None)
        return Page(items, encode_cursor(name, tuple(reached)) if len(rows) > limit else None)


def _ends(name: str, cursor: str | None, shards: int) -> Sequence[int | None]:
    """Where the page before ended on each shard. Raises BadCursor."""
    return [None] * shards if cursor is None else [int(end) for end in decode_cursor(name, cursor, (int,) * shards)]


def _latest_first(read: Sequence[Sequence[Row]], began: str) -> Iterator[tuple[int, Row]]:
    """The rows of several lists with the numbers of their lists: always the latest of those that come next in each."""
    numbered = [[(number, row) for row in rows] for number, rows in enumerate(read)]
    return merge(*numbered, key=lambda each: (each[1].document or {}).get(began, ""), reverse=True)


def _is_read_models(readers: PlacedReadModels) -> ReadModels:
    """Lets the type checker prove that the readers fit the port."""
    return readers
