"""Carries facts between shards, as commands: a policy without a memory, because each fact says all that is needed.

An order's own shard records whom it asks and what it tells; each lender records what it answers. Here such a fact
becomes the command that brings it to the other shard, under an id that only this fact can give.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from contracts.commands import AnswerLoan, Command, LendCoupons, TellLender
from contracts.envelope import Recorded
from contracts.events import BorrowingAsked, BorrowingTold, Event, LoanAnswered

# How the outbox tells letters between shards from what sagas send to their own.
LETTERS: Final = "lending:"


class Letter(NamedTuple):
    """One command to another shard (or to this one, as one of several). Letters of one thread go in their order."""

    thread: str
    command_id: str
    command: Command


def carries(event: Event) -> bool:
    """Whether an event has to be brought to another shard."""
    return type(event) in _LETTERS


def letters_of(recorded: Recorded) -> tuple[Letter, ...]:
    """The commands that bring one fact to whom it concerns."""
    write = _LETTERS.get(type(recorded.event))
    if write is None:
        return ()
    fact_id = recorded.metadata.event_id
    return tuple(
        Letter(f"{LETTERS}{thread}", f"saga:{fact_id}:{command.type}:{number}", command)
        for number, (thread, command) in enumerate(write(recorded.event))
    )


def _asked(event: BorrowingAsked) -> list[tuple[str, Command]]:
    asked = LendCoupons(
        shard=event.lender.shard,
        nth=event.nth,
        order=event.order,
        coupon_ids=event.lender.coupon_ids,
        only_ask=event.only_ask,
    )
    return [(_to_lender(event.order_id, event.lender.shard), asked)]


def _told(event: BorrowingTold) -> list[tuple[str, Command]]:
    return [
        (
            _to_lender(event.order_id, words.shard),
            TellLender(
                shard=words.shard,
                order_id=event.order_id,
                nth=event.nth,
                word=event.word,
                cause=event.cause,
                told=words,
            ),
        )
        for words in event.words
    ]


def _answered(event: LoanAnswered) -> list[tuple[str, Command]]:
    answer = AnswerLoan(order_id=event.order_id, nth=event.nth, lender=event.shard, loan=event.loan)
    return [(f"{event.order_id}:answers", answer)]


def _to_lender(order_id: str, shard: int) -> str:
    """A lender hears of an order in the order in which things were decided."""
    return f"{order_id}@{shard}"


_LETTERS: Final[dict[type[Event], Callable[[Any], list[tuple[str, Command]]]]] = {
    BorrowingAsked: _asked,
    BorrowingTold: _told,
    LoanAnswered: _answered,
}
