"""A budget's home and a holder of its leases, each a world with a clock of its own, and the keeper between them."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from command.domain import leases
from command.domain.budget import BUDGET, Budget
from contracts.commands import ActivateTemplate, Command, CreateTemplate, ShareBudget
from contracts.events import Event
from contracts.leases import HomeBooks
from contracts.refusals import Refusal
from query.verify.books import Books
from query.verify.raw import RawEvent
from sagas.leases import Step, next_steps
from tests.builders import budget, claim, coupon_of, held, off, pay, redeem, terms
from tests.gwt import NOON, World

HOLDER = "1"
TERM_SECONDS = 600
STEPS_MAX = 200
OFF_MINOR = 1_000


@dataclass
class Pair:
    """The two worlds. ``late`` are steps that were decided on; ``placed`` tells of each order whether it is at home."""

    home: World = field(default_factory=World)
    holder: World = field(default_factory=World)
    late: list[Step] = field(default_factory=list)
    placed: list[bool] = field(default_factory=list)

    @property
    def at_home(self) -> Budget:
        return self.home.state(BUDGET, "b1")

    @property
    def branch(self) -> Budget:
        return self.holder.state(BUDGET, "b1")

    def books(self) -> HomeBooks:
        return leases.home_books(self.at_home, HOLDER, now=self.home.now)

    def steps(self) -> tuple[Step, ...]:
        """What a keeper that looks now would do."""
        return next_steps(
            self.books(),
            leases.purses(self.branch),
            now=self.home.now,
            term_seconds=TERM_SECONDS,
            is_taken=leases.is_taken(self.branch),
        )

    def take(self, step: Step) -> None:
        """Deliver one step; a refusal is an answer like any other."""
        with suppress(Refusal):
            (self.home if step.side == "home" else self.holder).send(step.command)

    def keep(self) -> int:
        """Let a keeper work until there is nothing to do; returns how many steps that took."""
        taken = 0
        while steps := self.steps():
            before = len(self.home.log) + len(self.holder.log)
            for step in steps:
                self.take(step)
            taken += len(steps)
            assert taken < STEPS_MAX, f"the keeper does not come to rest: {steps}"
            assert len(self.home.log) + len(self.holder.log) > before, f"steps without effect: {steps}"
        return taken

    def wait(self, seconds: float) -> None:
        """Time passes on both sides."""
        self.home.wait(seconds)
        self.holder.wait(seconds)

    def send(self, *commands: Command) -> None:
        """At the holder."""
        for command in commands:
            self.holder.send(command)


def pair(limit_minor: int = 100_000, **changes: Any) -> Pair:
    """A shared budget, and a template at the holder that takes 10.00 of it for every coupon."""
    made = Pair()
    made.home.send(budget(limit_minor=limit_minor, **changes))
    made.home.send(ShareBudget(budget_id="b1", holder=HOLDER))
    made.keep()
    spends_here(made.holder)
    return made


def spends_here(world: World, template_id: str = "t1") -> None:
    """A template whose coupons take 10.00 of the budget."""
    content = terms(budget_ids=("b1",), discount=off(OFF_MINOR), claim_until=terms().claim_until.replace(year=2030))
    world.send(CreateTemplate(template_id=template_id, terms=content))
    world.send(ActivateTemplate(template_id=template_id))


def order(nth: int) -> list[Command]:
    """An order that holds 10.00 of the budget."""
    user = f"u{nth}"
    return [claim(user), *held(coupon_of(user), order_id=f"o{nth}", user_id=user)]


def payment(nth: int) -> list[Command]:
    """Its payment."""
    return [pay(f"p{nth}", f"o{nth}"), redeem(f"p{nth}", f"o{nth}")]


def lent_minor(budget: Budget) -> int:
    """What home reserves for holders."""
    return sum(max(lent.out_minor, 0) for _, lent in budget.lending.lent)


def books_of(world: World, *planted: Event) -> Books:
    """Verification's own books of one side, with events of the budget planted at the end of its log."""
    books, versions = Books(), Counter[str]()
    told = [*((entry.kind, entry.key, entry.event) for entry in world.log), *(("budget", "b1", it) for it in planted)]
    for offset, (kind, key, event) in enumerate(told, start=1):
        stream = f"acme/shop/{kind}/{key}"
        versions[stream] += 1
        data = json.loads(event.model_dump_json())
        place = (offset, stream, versions[stream], event.type, str(offset), "acme", "shop", NOON, NOON, f"c{offset}")
        books.fold((RawEvent(*place, data),))
    return books
