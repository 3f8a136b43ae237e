"""What the edge asks of several event stores: each question goes to the shard where its answer lies."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final

from command.ports import CommandKey, EventLog, LoggedAnswer
from contracts.commands import StartDistribution
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.placement import Placement
from infra.http.commands import CheckoutOutcomes, StartsDistributions
from query.ports import BadCursor, Distributions, Histories, Page, View

_SEPARATOR: Final = "."


class PlacedCheckouts:
    """Outcomes of checkouts, each heard at its order's shard."""

    def __init__(self, placement: Placement, by_shard: Mapping[int, CheckoutOutcomes]) -> None:
        self._placement = placement
        self._by_shard = by_shard

    def expect(self, realm: Realm, order_id: str, attempt: int) -> "asyncio.Future[Mapping[str, Any]]":
        """Resolves to an outcome that is recorded from now on."""
        return self._of(realm, order_id).expect(realm, order_id, attempt)

    def recorded(self, realm: Realm, order_id: str, attempt: int) -> Mapping[str, Any] | None:
        """The outcome, if it is recorded already. Blocks. Raises StoreUnavailable."""
        return self._of(realm, order_id).recorded(realm, order_id, attempt)

    def _of(self, realm: Realm, order_id: str) -> CheckoutOutcomes:
        return self._by_shard[self._placement.shard_of(realm, order_id)]


class PlacedHistories:
    """Histories of coupons, each from the shard of its template."""

    def __init__(self, placement: Placement, by_shard: Mapping[int, Histories]) -> None:
        self._placement = placement
        self._by_shard = by_shard

    async def coupon(self, realm: Realm, coupon_id: str, *, cursor: str | None, limit: int) -> Page:
        """A coupon's events in order. Raises BadCursor, StoreUnavailable."""
        shard = self._placement.shard_of_coupon(realm, coupon_id)
        return await self._by_shard[shard].coupon(realm, coupon_id, cursor=cursor, limit=limit)


class PlacedDistributions:
    """Distributions, each in the store of its shard. A realm that is spread is listed shard by shard."""

    def __init__(
        self,
        placement: Placement,
        by_shard: Mapping[int, Distributions],
        starts: Mapping[int, StartsDistributions],
    ) -> None:
        self._placement = placement
        self._by_shard = by_shard
        self._starts = starts

    def start(self, envelope: CommandEnvelope, user_ids: Sequence[str]) -> Answer:
        """Store the list and start it, at its shard. Blocks. Raises AlreadyExists, and as the engine does."""
        command = envelope.command
        assert isinstance(command, StartDistribution)
        shard = self._placement.shard_of(envelope.realm, command.distribution_id)
        return self._starts[shard](envelope, user_ids)

    async def one(self, realm: Realm, distribution_id: str) -> View | None:
        """One distribution. Raises StoreUnavailable."""
        return await self._of(realm, distribution_id).one(realm, distribution_id)

    async def refusals(self, realm: Realm, distribution_id: str) -> AsyncIterator[bytes] | None:
        """The refused rows as CSV; None for an unknown distribution. Raises StoreUnavailable."""
        return await self._of(realm, distribution_id).refusals(realm, distribution_id)

    async def page(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """The latest first, shard by shard: a cursor is ``shard.cursor there``. Raises BadCursor, StoreUnavailable."""
        shards = self._placement.shards_of(realm)
        if len(shards) == 1:
            return await self._by_shard[shards[0]].page(realm, cursor=cursor, limit=limit)
        shard, there = _split(cursor) if cursor is not None else (shards[0], None)
        if shard not in shards:
            raise BadCursor
        page = await self._by_shard[shard].page(realm, cursor=there, limit=limit)
        if page.next_cursor is not None:
            return Page(page.items, f"{shard}{_SEPARATOR}{page.next_cursor}")
        following = next((each for each in shards if each > shard), None)
        return Page(page.items, None if following is None else f"{following}{_SEPARATOR}")

    def _of(self, realm: Realm, distribution_id: str) -> Distributions:
        return self._by_shard[self._placement.shard_of(realm, distribution_id)]


def _split(cursor: str) -> tuple[int, str | None]:
    shard, separator, there = cursor.partition(_SEPARATOR)
    if not (separator and shard.isascii() and shard.isdigit() and len(shard) <= len("32767")):
        raise BadCursor
    return int(shard), there or None


def logged_answers(
    placement: Placement, logs: Mapping[int, EventLog], keys: Collection[CommandKey]
) -> Mapping[CommandKey, LoggedAnswer]:
    """Answers to these commands, on whichever shard of their realm. Blocks. Raises StoreUnavailable."""
    found: dict[CommandKey, LoggedAnswer] = {}
    for shard, log in logs.items():
        here = [key for key in keys if shard in placement.shards_of(key.realm)]
        if here:
            with log.reading() as view:
                found |= view.answers(here)
    return found
