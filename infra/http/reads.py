"""Reads over HTTP: wait for the position that the caller has to see, read, and say what position was shown."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import structlog
from starlette.responses import Response, StreamingResponse

from contracts.placement import Placement
from contracts.position import Position
from infra.entry.bodies import malformed
from infra.entry.problems import FieldError, Problem
from infra.http.edge import Endpoint, Exchange
from infra.http.reply import JsonReply
from query.api import FileRoute, ItemRoute, ListRoute, Shows
from query.ports import PAGE_MAX, BadCursor, BadFilter, ReadModelUnavailable

logger = structlog.get_logger(__name__)

LIMIT_DEFAULT: Final = 50
READ_TIMEOUT_SECONDS: Final = 15.0
_POLL_SECONDS: Final = (0.002, 0.005, 0.01, 0.02)
_NO_FIELDS: Final[frozenset[str]] = frozenset()
_ITEM_FIELDS: Final = frozenset({"min_position"})
_LIST_FIELDS: Final = frozenset({"min_position", "cursor", "limit"})

Positions = Mapping[Shows, Callable[[], Awaitable[Position]]]


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds of the read endpoints."""

    min_position_wait_ms: int = 2_000


@dataclass(frozen=True, slots=True)
class PlacedPositions:
    """Where there are several shards: what each kind of model shows of each; a kind lacks where it shows nothing."""

    placement: Placement
    by_shard: Mapping[int, Positions]

    def showing(self, shows: Shows) -> list[int]:
        """The shards that a kind of model shows."""
        return sorted(shard for shard, positions in self.by_shard.items() if shows in positions)


class HttpReads:
    """The endpoints of the read side. ``positions`` says per kind of model what it shows at least."""

    def __init__(self, positions: Positions, limits: ReadLimits, placed: PlacedPositions | None = None) -> None:
        self._positions = positions
        self._limits = limits
        self._placed = placed

    def item(self, route: ItemRoute) -> Endpoint:
        """One thing, or 404: the same answer whether it is unknown or somebody else's."""

        async def endpoint(exchange: Exchange) -> Response:
            query = exchange.query(_ITEM_FIELDS)
            async with _bounded():
                position = await self._position(exchange, query, route.shows)
                view = await route.read(exchange.caller.realm, exchange.path_ids)
            if view is None:
                raise Problem(route.unknown, "there is no such thing", headers={"x-position": position.token()})
            return _shown({"data": view}, position)

        return endpoint

    def list(self, route: ListRoute) -> Endpoint:
        """A page of things, in a stable order."""
        allowed = _LIST_FIELDS | route.filters

        async def endpoint(exchange: Exchange) -> Response:
            query = exchange.query(allowed)
            limit = _limit(query.get("limit"))
            filters = {name: value for name, value in query.items() if name in route.filters}
            try:
                async with _bounded():
                    position = await self._position(exchange, query, route.shows)
                    realm, ids = exchange.caller.realm, exchange.path_ids
                    page = await route.read(realm, ids, filters, query.get("cursor"), limit)
            except BadCursor:
                raise malformed([FieldError("?cursor", "malformed_cursor", "was not made by this list")]) from None
            except BadFilter as error:
                raise malformed([FieldError(f"?{error.name}", "malformed_filter", error.message)]) from None
            return _shown({"items": list(page.items), "next_cursor": page.next_cursor}, position)

        return endpoint

    def file(self, route: FileRoute) -> Endpoint:
        """A CSV file in pieces; one that breaks off is not ended, so that nobody takes it for whole."""

        async def endpoint(exchange: Exchange) -> Response:
            exchange.query(_NO_FIELDS)
            async with _bounded():
                pieces = await route.read(exchange.caller.realm, exchange.path_ids)
            if pieces is None:
                raise Problem(route.unknown, "there is no such thing")
            return StreamingResponse(pieces, media_type="text/csv")

        return endpoint

    async def _position(self, exchange: Exchange, query: Mapping[str, str], shows: Shows) -> Position:
        """What the model shows, once that is as far as the caller asked for. Raises Problem when it takes too long."""
        token = query.get("min_position") or exchange.raw_headers.get(b"min-position", b"").decode("latin-1")
        wanted = _parsed(token) if token else None
        position_of = self._position_of(exchange, wanted, shows)
        deadline = monotonic() + self._limits.min_position_wait_ms / 1_000
        pauses = iter(_POLL_SECONDS)
        pause = 0.0
        while True:
            position = await position_of()
            if wanted is None:
                return position
            if (wanted.shard, wanted.epoch) != (position.shard, position.epoch):
                await self._require_other_history(exchange, wanted, shows)
                message = "belongs to another history of the store, and will never be reached"
                raise malformed([FieldError("?min_position", "position_of_another_history", message)])
            if position.offset >= wanted.offset:
                return position
            if monotonic() >= deadline:
                detail = "the read model has not come that far yet; retry, or ask for less"
                raise Problem("position_not_reached", detail, extra={"position": position.token()})
            pause = next(pauses, pause)
            await asyncio.sleep(pause)

    async def _require_other_history(self, exchange: Exchange, wanted: Position, shows: Shows) -> None:
        """Right after a restore it is the model that is of another history, until it is rebuilt.

        Raises ReadModelUnavailable when the position is of the present one.
        """
        if shows != "log":
            present = await self._position_of(exchange, wanted, "log")()
            if (present.shard, present.epoch) == (wanted.shard, wanted.epoch):
                raise ReadModelUnavailable(f"{shows} show a history of the store that was given up: rebuild them")

    def _position_of(
        self, exchange: Exchange, wanted: Position | None, shows: Shows
    ) -> Callable[[], Awaitable[Position]]:
        """Who tells the position: of the shard that the caller's own is of, else of the one where the thing lies."""
        if self._placed is None:
            return self._positions[shows]
        shard = _shard_of(self._placed.placement, exchange) if wanted is None else wanted.shard
        found = self._placed.by_shard.get(shard, {}).get(shows)
        if found is None and wanted is not None:
            shown = ", ".join(map(str, self._placed.showing(shows)))
            message = f"is of shard {shard}, of which nothing is shown here; this shows shard {shown}"
            raise malformed([FieldError("?min_position", "position_of_unknown_shard", message)])
        return found or self._positions[shows]


def _shard_of(placement: Placement, exchange: Exchange) -> int:
    """Where the thing that a path names lies; of a list, the first shard of the realm."""
    realm, ids = exchange.caller.realm, exchange.path_ids
    if (coupon_id := ids.get("coupon_id")) is not None:
        return placement.shard_of_coupon(realm, coupon_id)
    return next((placement.shard_of(realm, key) for key in ids.values()), placement.shards_of(realm)[0])


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """A time limit around a read, and what a model's absence means."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_SECONDS):
            yield
    except TimeoutError as error:
        raise Problem("read_model_unavailable", "the read model did not answer in time") from error
    except ReadModelUnavailable as error:
        # Why is for operators: it may name addresses.
        logger.warning("read_model_unavailable", reason=str(error))
        raise Problem("read_model_unavailable", "the read model cannot be reached, or is being built") from error


def _shown(body: dict[str, Any], position: Position) -> Response:
    body["position"] = position.token()
    return JsonReply(body)


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if text.isascii() and text.isdigit() and 0 < int(text) <= PAGE_MAX:
        return int(text)
    raise malformed([FieldError("?limit", "out_of_range", f"must be 1 to {PAGE_MAX}")])


def _parsed(token: str) -> Position:
    try:
        return Position.parse(token)
    except ValueError:
        message = "is not a position that an answer carried"
        raise malformed([FieldError("?min_position", "malformed_position", message)]) from None
