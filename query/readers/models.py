"""Reads wallets, coupons, templates, orders and budgets from Redis; what is shown is whole, or it is not shown."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
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
    COUPON,
    MODELS,
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
)
from query.ports import Page, ReadModels, ReadModelUnavailable, View
from query.readers.cursors import decode_cursor, encode_cursor

_TRIES_MAX: Final = 5  # A version may be switched between two looks, but not five times.
_LIST_LEAVES_OUT: Final = ("terms",)  # Long, and one look away.


class _Active(NamedTuple):
    """What readers use of one model, and how far it is."""

    version: int
    position: Position


class RedisReadModels:
    """Implements :class:`query.ports.ReadModels`. One per event loop; the client's pool bounds its connections.

    Keys are built from the realm: there is no way to ask for another's.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client
        self._versions: dict[str, int] = {}

    async def position(self) -> Position:
        """What every read model shows at least. Raises ReadModelUnavailable while one of them is not whole."""
        async with _translated(), self._client.pipeline(transaction=False) as pipe:
            for model in MODELS:
                pipe.hgetall(control_key(model))
            answers = await pipe.execute()
        active = [_active(model, control) for model, control in zip(MODELS, answers, strict=True)]
        if len({(each.position.shard, each.position.epoch) for each in active}) > 1:
            raise ReadModelUnavailable("read models belong to different histories of the store: rebuild the older ones")
        return min((each.position for each in active), key=lambda position: position.offset)

    async def user_coupons(self, realm: Realm, user_id: str, *, cursor: str | None, limit: int) -> Page:
        """A user's coupons, latest claim first. Raises BadCursor."""
        return await self._page(WALLET, realm, user_id, cursor=cursor, limit=limit)

    async def coupon(self, realm: Realm, coupon_id: str) -> View | None:
        """One coupon."""
        return await self._item(COUPON, realm, coupon_id)

    async def templates(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """All templates of a realm, latest first, without their terms. Raises BadCursor."""
        return await self._page(TEMPLATES, realm, None, cursor=cursor, limit=limit)

    async def template(self, realm: Realm, template_id: str) -> View | None:
        """Terms, status and availability of one template."""
        return await self._item(TEMPLATE, realm, template_id)

    async def order(self, realm: Realm, order_id: str) -> View | None:
        """One order: what was told, what is held, where its saga stands and why."""
        return await self._item(ORDER, realm, order_id)

    async def budget(self, realm: Realm, budget_id: str) -> View | None:
        """One budget by period: limit, reserved, committed, credited, available."""
        return await self._item(BUDGET, realm, budget_id)

    async def _item(self, model: str, realm: Realm, key: str) -> View | None:
        def ask(pipe: Pipeline, version: int) -> None:
            pipe.hmget(bucket_key(model, version, realm, key), [POSITION_FIELD, SINGLE_FIELD])

        _, (found,) = await self._ask(model, ask)
        return _decoded(model, found)[0]

    async def _page(self, model: str, realm: Realm, key: str | None, *, cursor: str | None, limit: int) -> Page:
        listing = bucket_key(model, 0, realm, key)
        highest = "+inf" if cursor is None else f"({decode_cursor(listing, cursor, (int,))[0]}"
        for _ in range(_TRIES_MAX):
            version, fields, scores = await self._names(model, realm, key, highest, limit + 1)
            if not fields:
                return Page((), None)
            same, found = await self._documents(model, realm, key, fields[:limit])
            if same != version:
                continue  # Switched in between: names and documents have to be of one version.
            items = [_without(document) for document in found if document is not None]
            more = len(fields) > limit
            return Page(items, encode_cursor(listing, (scores[limit - 1],)) if more else None)
        raise ReadModelUnavailable(f"{model} is being switched")

    async def _names(
        self, model: str, realm: Realm, key: str | None, highest: str, count: int
    ) -> tuple[int, list[bytes], list[int]]:
        def ask(pipe: Pipeline, version: int) -> None:
            listed = list_key(bucket_key(model, version, realm, key))
            pipe.zrevrangebyscore(listed, highest, "-inf", start=0, num=count, withscores=True, score_cast_func=int)

        version, (listed,) = await self._ask(model, ask)
        return version, [name for name, _ in listed], [int(score) for _, score in listed]

    async def _documents(
        self, model: str, realm: Realm, key: str | None, fields: Sequence[bytes]
    ) -> tuple[int, list[dict[str, Any] | None]]:
        def ask(pipe: Pipeline, version: int) -> None:
            pipe.hmget(bucket_key(model, version, realm, key), [POSITION_FIELD.encode(), *fields])

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
    if position.offset < ready_at:
        raise ReadModelUnavailable(f"{model} is being built: {position.offset} of {ready_at} events")
    return _Active(int(number), position)


def _decoded(model: str, found: Sequence[bytes | None]) -> list[dict[str, Any] | None]:
    position, *values = found
    if position is None and any(values):
        raise ReadModelUnavailable(f"a bucket of {model} has no position and is not trusted: rebuild {model}")
    return [None if value is None else orjson.loads(value)["doc"] for value in values]


def _without(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in _LIST_LEAVES_OUT}


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise ReadModelUnavailable(f"Redis cannot be reached: {error}") from error


def _is_read_models(readers: RedisReadModels) -> ReadModels:
    """Lets the type checker prove that the readers fit the port."""
    return readers
