"""An order system that talks to us as any would: HTTP, an idempotency key per request, patience when told to wait."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx

from command.api import COMMAND_ROUTES
from contracts.commands import Command
from infra.simulator.play import Move, Moves, Play, Question, Told
from infra.simulator.scenarios import Pass

REQUESTS_MAX: Final = 16  # On the way at once.
ATTEMPTS_MAX: Final = 20
RETRY_AFTER_SECONDS_MAX: Final = 2.0
ASKS_MAX: Final = 30  # For a decision that takes longer than the API waits for it.
_COME_BACK: Final = frozenset({429, 502, 503, 504})
_PATHS: Final = {route.command: route.path for route in COMMAND_ROUTES}

PassTime = Callable[[int], Awaitable[None]]


class UpstreamFailed(RuntimeError):
    """The API gave an answer that an order system cannot go on with; the message holds it."""


class HttpUpstream:
    """Plays orders against the API. ``client`` knows the address and presents the key; it stays the caller's."""

    def __init__(self, client: httpx.AsyncClient, *, requests_max: int = REQUESTS_MAX) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(requests_max)

    async def play_all(self, plays: Sequence[Play], pass_time: PassTime) -> None:
        """Play all orders side by side; where some let time pass, all wait, and it passes once, by the longest.

        ``pass_time`` moves the realm's business clock by so many seconds. Raises UpstreamFailed.
        """
        under_way: list[tuple[Play, Moves]] = [(play, play.moves()) for play in plays]
        while under_way:
            paused = await asyncio.gather(*(self._until_pause(play, moves) for play, moves in under_way))
            waits = [pause.seconds for pause in paused if pause is not None]
            under_way = [it for it, pause in zip(under_way, paused, strict=True) if pause is not None]
            if waits:
                await pass_time(max(waits))

    async def _until_pause(self, play: Play, moves: Moves) -> Pass | None:
        answer: int | None = None
        while True:
            try:
                move: Move = moves.send(answer)
            except StopIteration:
                return None
            if isinstance(move, Pass):
                return move
            answer = await self._make(play, move)

    async def _make(self, play: Play, move: Told | Question) -> int | None:
        match move:
            case Told():
                return _payable_of(await self._tell(move), play)
            case Question.QUOTE:
                return await self._quoted(play)
            case Question.PAYABLE:
                raise UpstreamFailed(f"order {play.order_id} was placed, but nobody decided what is payable")

    async def _tell(self, told: Told) -> dict[str, Any]:
        """The answer. One that says "not decided yet" is asked for again, under the same key: it waits each time."""
        path, body = _request(told.command)
        key = {"Idempotency-Key": told.command_id}
        response = await self._ask(path, body, key)
        for _ in range(ASKS_MAX):
            if response.status_code != httpx.codes.ACCEPTED:
                break
            response = await self._ask(path, body, key)
        return dict(response.json())

    async def _quoted(self, play: Play) -> int:
        body = play.placing.model_dump(mode="json", exclude_none=True)
        answer = await self._ask("/v1/orders/quote", body, {})
        return int(answer.json()["data"]["payable_minor"])

    async def _ask(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
        """An answer of the 2xx. Comes back when told to; any other answer raises UpstreamFailed."""
        for _ in range(ATTEMPTS_MAX):
            async with self._slots:
                response = await self._client.post(path, json=body, headers=headers)
            if response.is_success:
                return response
            if response.status_code not in _COME_BACK:
                raise UpstreamFailed(f"POST {path}: {response.status_code} {response.text}")
            await asyncio.sleep(min(float(response.headers.get("retry-after", 0.1)), RETRY_AFTER_SECONDS_MAX))
        raise UpstreamFailed(f"POST {path}: still told to come back after {ATTEMPTS_MAX} attempts")


def _payable_of(answer: dict[str, Any], play: Play) -> int | None:
    """What a decided checkout leaves to pay: without a hold, everything. None when the answer is about no checkout."""
    checkout = answer.get("checkout")
    if checkout is None:
        return None
    return int(checkout["payable_minor"]) if checkout["status"] != "refused" else play.total_minor


def _request(command: Command) -> tuple[str, dict[str, Any]]:
    """Where a command goes and what it says there: fields named in the path are not repeated."""
    path = _PATHS[type(command)]
    body = command.model_dump(mode="json", exclude_none=True)
    for name in [name for name in body if f"{{{name}}}" in path]:
        path = path.replace(f"{{{name}}}", quote(str(body.pop(name)), safe=""))
    return path, body
