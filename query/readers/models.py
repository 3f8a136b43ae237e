"""Reads wallets, coupons, templates, orders and budgets from Redis; what is shown is whole, or it is not shown."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson
import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from contracts.identity import Realm
from contracts.position import Position
from contracts.read_models import (
    ACTIVE_FIELD,
    BUDGET,
    CLOCK,
    COUPON,
    INSTANT_FORMAT,
    MODELS,
    NEVER_READY,
    ORDER,
    POSITION_FIELD,
    READY_FIELD,
    SINGLE_FIELD,
    TEMPLATE,
    TEMPLATES,
    WALLET,
    bucket_key,
    checkpoint_field,
    control_key,
    list_key,
    model_at,
)
from query.ports import Page, ReadModels, ReadModelUnavailable, View
from query.readers.cursors import decode_cursor, encode_cursor
from query.readers.instants import coupon_at, coupon_ends_by_itself, hold_ends_by_itself, order_at

_TRIES_MAX: Final = 5  # A version may be switched between two looks, but not five times.
_LIST_LEAVES_OUT: Final = ("terms",)  # Long, and one look away.


class _Active(NamedTuple):
    """What readers use of one model, and how far it is."""

    version: int
    position: Position


class Listing(NamedTuple):
    """A list: a model, and whose. It is the same one on whichever shards it has rows; ``name`` binds cursors to it."""

    model: str
    realm: Realm
    key: str | None

    @property
    def name(self) -> str:
        return bucket_key(self.model, 0, self.realm, self.key)


class Row(NamedTuple):
    """One row of a list. ``first``: the offset of its first event, by which a shard's rows are listed."""

    first: int
    document: dict[str, Any] | None

    def shown(self) -> View:
        """As lists show it."""
        return {name: value for name, value in (self.document or {}).items() if name not in _LIST_LEAVES_OUT}


def wallet_of(realm: Realm, user_id: str) -> Listing:
    """A user's coupons."""
    return Listing(WALLET, realm, user_id)


def templates_of(realm: Realm) -> Listing:
    """All templates of a realm."""
    return Listing(TEMPLATES, realm, None)


class RedisReadModels:
    """Implements :class:`query.ports.ReadModels` for one shard. One per event loop; the client's pool bounds its
    connections.

    Keys are built from the realm: there is no way to ask for another's. ``wall_clock``: the time, in UTC, for realms
    without a business clock of their own.
    """

    def __init__(self, client: "redis.asyncio.Redis", shard: int = 0, *, wall_clock: Callable[[], datetime]) -> None:
        self._client = client
        self._shard = shard
        self._wall_clock = wall_clock
        self._versions: dict[str, int] = {}

    async def position(self) -> Position:
        """What every read model shows at least. Raises ReadModelUnavailable while one of them is not whole."""
        models = [model_at(model, self._shard) for model in MODELS]
        async with _translated(), self._client.pipeline(transaction=False) as pipe:
            for model in models:
                pipe.hgetall(control_key(model))
            answers = await pipe.execute()
        active = [_active(model, control) for model, control in zip(models, answers, strict=True)]
        if len({(each.position.shard, each.position.epoch) for each in active}) > 1:
            raise ReadModelUnavailable("read models belong to different histories of the store: rebuild the older ones")
        return min((each.position for each in active), key=lambda position: position.offset)

    async def user_coupons(self, realm: Realm, user_id: str, *, cursor: str | None, limit: int) -> Page:
        """A user's coupons, latest claim first. Raises BadCursor."""
        return await self.page(wallet_of(realm, user_id), cursor=cursor, limit=limit)

    async def coupon(self, realm: Realm, coupon_id: str) -> View | None:
        """One coupon, as it stands now."""
        coupon = await self._item(COUPON, realm, coupon_id)
        if coupon is None or not coupon_ends_by_itself(coupon):
            return coupon
        return coupon_at(coupon, await self._business_now(realm))

    async def templates(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """All templates of a realm, latest first, without their terms. Raises BadCursor."""
        return await self.page(templates_of(realm), cursor=cursor, limit=limit)

    async def template(self, realm: Realm, template_id: str) -> View | None:
        """Terms, status and availability of one template."""
        return await self._item(TEMPLATE, realm, template_id)

    async def order(self, realm: Realm, order_id: str) -> View | None:
        """One order: what was told, what is held now, where its saga stands and why."""
        order = await self._item(ORDER, realm, order_id)
        if order is None or not hold_ends_by_itself(order):
            return order
        return order_at(order, await self._business_now(realm))

    async def budget(self, realm: Realm, budget_id: str) -> View | None:
        """One budget by period: limit, reserved, committed, credited, available."""
        return await self._item(BUDGET, realm, budget_id)

    async def page(self, listing: Listing, *, cursor: str | None, limit: int) -> Page:
        """A list's rows, latest first. Raises BadCursor."""
        below = None if cursor is None else int(decode_cursor(listing.name, cursor, (int,))[0])
        rows = await self.rows(listing, below=below, limit=limit + 1)
        shown = rows[:limit]
        return Page(
            tuple(row.shown() for row in shown if row.document is not None),
            encode_cursor(listing.name, (shown[-1].first,)) if len(rows) > limit else None,
        )

    async def rows(self, listing: Listing, *, below: int | None, limit: int) -> list[Row]:
        """The latest rows of a list, or the latest of those ``below`` a row's ``first``; at most ``limit``."""
        model = model_at(listing.model, self._shard)
        for _ in range(_TRIES_MAX):
            version, names, firsts = await self._names(model, listing, below, limit)
            if not names:
                return []
            same, found = await self._documents(model, listing, names)
            if same == version:
                rows = [Row(*each) for each in zip(firsts, found, strict=True)]
                return rows if listing.model != WALLET else await self._coupons_now(listing.realm, rows)
            # Switched in between: names and documents have to be of one version.
        raise ReadModelUnavailable(f"{model} is being switched")

    async def _coupons_now(self, realm: Realm, rows: list[Row]) -> list[Row]:
        now = await self._business_now(realm)
        return [row._replace(document=row.document and coupon_at(row.document, now)) for row in rows]

    async def _business_now(self, realm: Realm) -> str:
        """What a realm's own clock shows, else the wall's: as documents write instants."""
        clock = await self._item(CLOCK, realm, None)
        shows: str = self._wall_clock().strftime(INSTANT_FORMAT) if clock is None else clock["shows"]
        return shows

    async def _item(self, name: str, realm: Realm, key: str | None) -> dict[str, Any] | None:
        model = model_at(name, self._shard)

        def ask(pipe: Pipeline, version: int) -> None:
            pipe.hmget(bucket_key(model, version, realm, key), [POSITION_FIELD, SINGLE_FIELD])

        _, (found,) = await self._ask(model, ask)
        return _decoded(model, found)[0]

    async def _names(
        self, model: str, listing: Listing, below: int | None, count: int
    ) -> tuple[int, list[bytes], list[int]]:
        highest = "+inf" if below is None else f"({below}"

        def ask(pipe: Pipeline, version: int) -> None:
            listed = list_key(bucket_key(model, version, listing.realm, listing.key))
            pipe.zrevrangebyscore(listed, highest, "-inf", start=0, num=count, withscores=True, score_cast_func=int)

        version, (listed,) = await self._ask(model, ask)
        return version, [name for name, _ in listed], [int(score) for _, score in listed]

    async def _documents(
        self, model: str, listing: Listing, fields: Sequence[bytes]
    ) -> tuple[int, list[dict[str, Any] | None]]:
        def ask(pipe: Pipeline, version: int) -> None:
            bucket = bucket_key(model, version, listing.realm, listing.key)
            pipe.hmget(bucket, [POSITION_FIELD.encode(), *fields])

        version, (found,) = await self._ask(model, ask)
        return version, _decoded(model, found)

    async def _ask(self, model: str, ask: Callable[[Pipeline, int], Any]) -> tuple[int, Sequence[Any]]:
        """Ask one version, and make sure that it was the active, whole one before and after; returns it and answers."""
        for _ in range(_TRIES_MAX):
            version = self._versions.get(model, 0)
            async with _translated(), self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(control_key(model))
                if version:
                    ask(pipe, version)
                pipe.hgetall(control_key(model))
                before, *answers, after = await pipe.execute()
            began, ended = _active(model, before).version, _active(model, after).version
            if version and version == began == ended:
                return version, answers
            self._versions[model] = ended
        raise ReadModelUnavailable(f"{model} is being switched")


def _active(model: str, control: dict[bytes, bytes]) -> _Active:
    """The version to read. Raises ReadModelUnavailable when there is none, or it is not yet as far as it has to be."""
    number = control.get(ACTIVE_FIELD.encode())
    token = None if number is None else control.get(checkpoint_field(int(number)).encode())
    if number is None or token is None:
        raise ReadModelUnavailable(f"{model} is not built yet")
    position = Position.parse(token.decode())
    ready_at = int(control.get(READY_FIELD.encode(), 0))
    if ready_at == NEVER_READY:
        raise ReadModelUnavailable(f"{model} belongs to a history of the store that was given up: rebuild it")
    if position.offset < ready_at:
        raise ReadModelUnavailable(f"{model} is being built: {position.offset} of {ready_at} events")
    return _Active(int(number), position)


def _decoded(model: str, found: Sequence[bytes | None]) -> list[dict[str, Any] | None]:
    position, *values = found
    if position is None and any(values):
        raise ReadModelUnavailable(f"a bucket of {model} has no position and is not trusted: rebuild {model}")
    return [None if value is None else orjson.loads(value)["doc"] for value in values]


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise ReadModelUnavailable(f"Redis cannot be reached: {error}") from error


def _is_read_models(readers: RedisReadModels) -> ReadModels:
    """Lets the type checker prove that the readers fit the port."""
    return readers
