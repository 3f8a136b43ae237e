"""What callers do in these tests: claims from a small stock, and whole orders on a small budget."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from command.engine import Engine
from contracts.commands import Command
from contracts.envelope import CommandEnvelope
from tests.builders import REALM, budget, claim, hold, line, off, pay, place, redeem, template
from tests.faults.fleet import Flow

STOCK: Final = 300
BUDGET_MINOR: Final = 100_000
OFF_MINOR: Final = 1_000
ALWAYS: Final[dict[str, Any]] = {
    "claim_from": datetime(2020, 1, 1, tzinfo=UTC),
    "claim_until": datetime(2120, 1, 1, tzinfo=UTC),
}


def opening() -> list[Command]:
    """A hot template of few coupons, one per user; one without end; and one that spends a budget."""
    return [
        budget("pot", BUDGET_MINOR),
        *template("hot", stock=STOCK, claims_per_user_max=1, **ALWAYS),
        *template("wide", claims_per_user_max=1, **ALWAYS),
        *template("paid", budget_ids=("pot",), discount=off(OFF_MINOR), claims_per_user_max=1, **ALWAYS),
    ]


def sent(command_id: str, command: Command) -> CommandEnvelope:
    """A command on its way in."""
    return CommandEnvelope(REALM, command_id, command, "tester", "corr")


def publish(engine: Engine, template_id: str, **terms: Any) -> None:
    """A template that is active."""
    for number, command in enumerate(template(template_id, **(ALWAYS | terms))):
        assert engine.execute(sent(f"{template_id}-{number}", command)).accepted


def open_shop(engine: Engine) -> None:
    """Set it up."""
    for number, command in enumerate(opening()):
        envelope = CommandEnvelope(REALM, f"opening-{number}", command, actor="tester", correlation_id="opening")
        assert engine.execute(envelope).accepted


def customers() -> Iterator[Flow]:
    """Without end: every user claims the hot coupon twice, another, and every fourth orders with a third."""
    for number in itertools.count():
        user = f"u{number // 2}"
        yield _order(user, f"o{number}") if number % 4 == 0 else _claims(user)


def _claims(user: str) -> Flow:
    yield claim(user, "hot")
    yield claim(user, "wide")


def _order(user: str, order_id: str) -> Flow:
    yield claim(user, "hot")
    claimed = yield claim(user, "paid")
    yield place(claimed.data["coupon_id"], order_id=order_id, user_id=user, lines=(line("big", 5_000),))
    yield hold(order_id)
    yield pay(f"p-{order_id}", order_id, amount_minor=4_000)
    yield redeem(f"p-{order_id}", order_id)


def sold(dsn: str, template_id: str = "hot") -> int:
    """Coupons of a template that were ever claimed, by plain SQL."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM events WHERE type = 'coupon.claimed.v1' AND data -> 'about' ->> 'template_id' = %s",
            (template_id,),
        ).fetchone()
    assert row is not None
    return int(row[0])
