"""The API as the demo calls it, where what may come in by topic does: the same requests, the same answers."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from command.api import COMMAND_ROUTES, CommandRoute
from contracts.commands import Command
from contracts.registry import command_class
from infra.demo.client import Api, Reply
from infra.intake.decoding import COMMAND_SCOPES
from infra.simulator.kafka import TopicUpstream

UNDER_WAY_MAX: Final = 256  # A topic has room for more than as many connections do.
_BATCH: Final = "/v1/commands"


class TopicApi(Api):
    """Commands go to Kafka, and their replies come from there. Clock, quotes and reads stay with HTTP.

    Errors: as Api, and TopicsSilent.
    """

    def __init__(self, url: str, token: str, upstream: TopicUpstream, *, connections_max: int = 64) -> None:
        super().__init__(url, token, connections_max=connections_max)
        self._upstream = upstream
        self._asked = asyncio.Semaphore(UNDER_WAY_MAX)

    @property
    def connections_max(self) -> int:
        """How many requests may be under way."""
        return UNDER_WAY_MAX

    async def post(self, path: str, body: Mapping[str, Any] | None = None, *, key: str) -> Reply:
        """Change something, under an idempotency key. A refusal is a reply, not an exception."""
        if path == _BATCH:
            return await self._batch((body or {})["commands"])
        found = _route_of(path, body or {})
        if found is None:
            return await super().post(path, body, key=key)
        route, command = found
        answer = await self._answered(command, key)
        if route.awaits_checkout and answer["status"] == "accepted":
            order_id, attempt = answer["data"]["order_id"], answer["data"]["attempt"]
            answer["checkout"] = await self._upstream.checkout(order_id, attempt)
        return Reply(200 if answer["status"] == "accepted" else answer["status"], answer, 0.0)

    async def _batch(self, entries: list[dict[str, Any]]) -> Reply:
        """One by one: a topic is a batch already."""

        async def ask(entry: Mapping[str, Any]) -> dict[str, Any]:
            command = command_class(entry["type"]).model_validate_json(orjson.dumps(entry["data"]))
            return await self._answered(command, entry["command_id"])

        return Reply(200, {"answers": await asyncio.gather(*map(ask, entries))}, 0.0)

    async def _answered(self, command: Command, command_id: str) -> dict[str, Any]:
        async with self._asked:
            return await self._upstream.ask(command, command_id)


def _route_of(path: str, body: Mapping[str, Any]) -> tuple[CommandRoute, Command] | None:
    """The command that a request is, if it is one that topics take."""
    for route, pattern in _ROUTES:
        if (match := pattern.fullmatch(path)) is not None:
            return route, route.command.model_validate_json(orjson.dumps({**body, **match.groupdict()}))
    return None


_ROUTES: Final = [
    (route, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)))
    for route in COMMAND_ROUTES
    if route.scope in COMMAND_SCOPES
]
