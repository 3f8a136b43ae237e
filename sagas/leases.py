"""The keeper of budget leases: from what home and holder have on record to the commands that bring them together.

It remembers nothing. Both sides' books are durable, and each command names the lease or the sums that it is about; so a
keeper may die at any step, two may run at once, and whatever comes late or twice changes nothing.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

from contracts.commands import (
    CloseBudgetLease,
    Command,
    GrantBudgetLease,
    OpenBudgetLease,
    SettleBudgetLease,
)
from contracts.leases import NOTHING_HERE, HomeBooks, Lent, Purse, Statement

NEVER_LENT: Final = Lent(0, 0, 0, NOTHING_HERE.until, 0, Statement(), 0)

Side = Literal["home", "holder"]


class Step(NamedTuple):
    """One command, and whose it is."""

    side: Side
    command: Command


def next_steps(
    home: HomeBooks, purses: Mapping[str, Purse], *, now: datetime, term_seconds: int, is_taken: bool = False
) -> tuple[Step, ...]:
    """What is to be done, by period; nothing when both sides agree and nobody needs anything.

    ``now`` is home's time. ``is_taken``: the holder has a budget of its own under this id, and will for ever. Steps of
    one period build on each other and are to be sent in order.
    """
    if is_taken:
        return tuple(_take_back(home, period, lent) for period, lent in sorted(home.lent.items()) if lent.in_flight)
    periods = sorted({*home.lent, *purses, *([home.present_period] if home.shared else [])})
    return tuple(step for period in periods for step in _steps(home, period, purses, now, term_seconds))


def command_id(command: Command, home_version: int, holder_version: int) -> str:
    """Derived from what is asked and from what was seen: two keepers that see the same ask once."""
    seen = f"{command.type}\n{command.model_dump_json()}\n{home_version}\n{holder_version}"
    return f"lease:{command.type}:{blake2b(seen.encode(), digest_size=16).hexdigest()}"


def _steps(
    home: HomeBooks, period: str, purses: Mapping[str, Purse], now: datetime, term_seconds: int
) -> Iterator[Step]:
    lent, purse = home.lent.get(period, NEVER_LENT), purses.get(period, NOTHING_HERE)
    if lent.number > purse.statement.number:
        # Under way. A holder that is lent nothing more closes it unopened, and for ever.
        yield _open(home, period, lent) if home.shared else _close(home, period, lent.number, final=True)
        return
    if purse.statement != lent.known:
        yield Step(
            "home",
            SettleBudgetLease(budget_id=home.budget_id, holder=home.holder, period=period, statement=purse.statement),
        )
    if not home.shared or period < home.present_period:
        if purse.is_open or purse.free_minor or purse.waiting:
            yield _close(home, period, purse.statement.number, final=True)
    elif period > home.present_period:
        return  # The holder's clock is ahead of home's, which cannot lend what is not its present yet.
    elif _needs_more(home, lent, purse, now, timedelta(seconds=term_seconds)):
        yield Step(
            "home",
            GrantBudgetLease(
                budget_id=home.budget_id,
                holder=home.holder,
                period=period,
                number=lent.number + 1,
                need_minor=purse.missing_minor,
                free_minor=purse.free_minor,
                term_seconds=term_seconds,
            ),
        )
    elif now >= lent.until and (purse.is_open or purse.free_minor):
        yield _close(home, period, purse.statement.number, final=False)


def _needs_more(home: HomeBooks, lent: Lent, purse: Purse, now: datetime, term: timedelta) -> bool:
    """Whether somebody waits, little is left, a lease in use nears its end, or an exhausted home has money again."""
    if purse.waiting or not home.lent:
        return True
    if lent.number == 0:
        return False  # A new period: when somebody needs it.
    if now >= lent.until - term / 2:
        return purse.statement.committed_minor > lent.spent_before_minor or purse.reserved_minor > 0
    is_low = purse.free_minor < lent.amount_minor // 2
    return home.available_minor > 0 and (is_low or purse.left_minor == 0)


def _take_back(home: HomeBooks, period: str, lent: Lent) -> Step:
    """What is under way to a holder that can never open it counts as closed unopened."""
    closed = lent.known.model_copy(update={"number": lent.number})
    return Step(
        "home", SettleBudgetLease(budget_id=home.budget_id, holder=home.holder, period=period, statement=closed)
    )


def _open(home: HomeBooks, period: str, lent: Lent) -> Step:
    return Step(
        "holder",
        OpenBudgetLease(
            budget_id=home.budget_id,
            period=period,
            number=lent.number,
            amount_minor=lent.amount_minor,
            left_minor=lent.left_minor,
            until=lent.until,
            terms=home.terms,
        ),
    )


def _close(home: HomeBooks, period: str, number: int, *, final: bool) -> Step:
    return Step(
        "holder",
        CloseBudgetLease(budget_id=home.budget_id, period=period, number=number, terms=home.terms, final=final),
    )
