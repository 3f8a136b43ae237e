"""Plays the simulator's orders over the demo's own connections, and keeps what callers were told of each."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.commands import CancelOrder, Command, PlaceOrder, ReopenOrder, ReportPayment, ReportRefund
from infra.demo.client import Api, ApiError, gather_bounded
from infra.simulator.play import Moves, Play, Question, Told
from infra.simulator.scenarios import Pass

ASKS_MAX: Final = 30  # For a decision that takes longer than the API waits for it.


@dataclass
class CallersWereTold:
    """What callers were told of their orders."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    refused_orders: set[str] = field(default_factory=set)


class DemoUpstream:
    """An order system with many orders at once. Raises ApiError for an answer that must not be."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.told = CallersWereTold()

    async def until_pause(
        self, under_way: Sequence[tuple[Play, Moves]], done: Callable[[], None]
    ) -> list[tuple[Play, Moves]]:
        """Let every order go on until its end, or until business time has to pass; returns the latter."""

        async def go_on(item: tuple[Play, Moves]) -> bool:
            return await self._until_pause(*item)

        paused = await gather_bounded(under_way, go_on, workers=self._api.connections_max, done=done)
        return [item for item, is_paused in zip(under_way, paused, strict=True) if is_paused]

    async def place(self, placing: PlaceOrder, command_id: str) -> Mapping[str, Any]:
        """Tell of an order; returns the checkout's outcome."""
        return await self._checkout("/v1/orders", _body(placing), command_id, placing.order_id)

    async def _until_pause(self, play: Play, moves: Moves) -> bool:
        answer: int | None = None
        while True:
            try:
                move = moves.send(answer)
            except StopIteration:
                return False
            if isinstance(move, Pass):
                return True
            answer = await (self._tell(play, move) if isinstance(move, Told) else self._answer(play, move))

    async def _tell(self, play: Play, told: Told) -> int | None:
        path, body = _request(told.command)
        if not isinstance(told.command, PlaceOrder | ReopenOrder):
            await self._api.must(path, body, key=told.command_id)
            return None
        checkout = await self._checkout(path, body, told.command_id, play.order_id)
        return play.total_minor if checkout["status"] == "refused" else int(checkout["payable_minor"])

    async def _answer(self, play: Play, question: Question) -> int:
        """What will be payable. A coupon that a quote calls unusable is left out of the order."""
        if question is not Question.QUOTE:
            raise ApiError(f"order {play.order_id} was placed, but nobody decided what is payable")
        quote = (await self._api.must("/v1/orders/quote", _body(play.placing), key=f"quote-{play.order_id}"))["data"]
        usable = tuple(each["coupon_id"] for each in quote["usable"])
        play.placing = play.placing.model_copy(update={"coupon_ids": usable})
        return int(quote["payable_minor"])

    async def _checkout(self, path: str, body: dict[str, Any], command_id: str, order_id: str) -> Mapping[str, Any]:
        """An answer that says "not decided yet" is asked for again, under the same key: it waits each time."""
        for _ in range(ASKS_MAX):
            answer = await self._api.must(path, body, key=command_id)
            checkout: Mapping[str, Any] | None = answer.get("checkout")
            if checkout is not None:
                self._note(order_id, checkout)
                return checkout
        raise ApiError(f"nobody decided about order {order_id}")

    def _note(self, order_id: str, checkout: Mapping[str, Any]) -> None:
        self.told.outcomes[checkout["status"]] += 1
        if checkout["status"] == "refused":
            self.told.refused_orders.add(order_id)
            self.told.refusals.update(refusal["code"] for refusal in checkout["refusals"])


def _body(command: Command) -> dict[str, Any]:
    return command.model_dump(mode="json", exclude_none=True)


def _request(command: Command) -> tuple[str, dict[str, Any]]:
    """Where a command goes and what it says there."""
    match command:
        case PlaceOrder():
            return "/v1/orders", _body(command)
        case CancelOrder():
            return f"/v1/orders/{command.order_id}/cancel", _body(command)
        case ReopenOrder():
            return f"/v1/orders/{command.order_id}/reopen", _body(command)
        case ReportPayment():
            return "/v1/payments", _body(command)
        case ReportRefund():
            return "/v1/refunds", _body(command)
    raise TypeError(f"an order system tells no {command.type}")
