"""One order with a coupon on each of two shards, on real PostgreSQL: all of it happens, or none of it.

Each story is played undisturbed and then, for every checkpoint, with a death each time that a saga process of either
shard passes it (a second try survives). What can be seen at the end must be the same.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from command.handlers import KINDS
from contracts.commands import PauseTemplate, RevokeCoupon
from infra.sagas.checkpoints import At
from infra.verify import Verifier
from tests.integration.sagas.test_races import visible
from tests.integration.sagas.world import PATIENT, Death, Lossy
from tests.integration.shards.world import ON_0, ON_1, GiantWorld, TwoStores

ORDER = f"{ON_0}-o"
FREE = {"reserved": 0, "committed": 0, "credited": 0}
SPENT = {"reserved": 0, "committed": 1_000, "credited": 0}

Story = Callable[[GiantWorld], None]
UNDISTURBED: dict[str, dict[str, Any]] = {}
# Where letters between shards can be lost; `make test-long` dies at every other point, too.
QUICK = (At.MEMORY_WRITTEN, At.COMMANDS_SUBMITTED, At.COMMANDS_ANSWERED)
PLAYED = tuple(At) if os.environ.get("TESSERA_TEST_EFFORT") == "long" else QUICK


@dataclass
class Deaths:
    """Plays a story with deaths after one step."""

    stores: TwoStores
    at: At | None
    test: str

    def play(self, story: Story) -> None:
        if self.test not in UNDISTURBED:
            UNDISTURBED[self.test] = self._seen(story, GiantWorld(self.stores))
        undisturbed = UNDISTURBED[self.test]
        assert (undisturbed["owed"], undisturbed["double"]) == ([], [])
        if self.at is not None:
            death = Death(self.at)
            assert self._seen(story, GiantWorld(self.stores, checkpoint=death)) == undisturbed

    @staticmethod
    def _seen(story: Story, world: GiantWorld) -> dict[str, Any]:
        try:
            story(world.cast())
            seen = visible(world)
            # In which order answers and payments came is the one thing that a death may change.
            seen["streams"] = {name: types for name, types in seen["streams"].items() if "borrowing/" not in name}
            return seen
        finally:
            world.close()


@pytest.fixture(params=[None, *PLAYED], ids=lambda at: at or "undisturbed")
def deaths(stores: TwoStores, request: pytest.FixtureRequest) -> Deaths:
    """One way to play."""
    return Deaths(stores, request.param, request.node.originalname)


def test_an_order_over_both_shards_is_held_paid_redeemed_and_refunded_as_one(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        world.place(ORDER, "c0", "c1").settle()
        assert world.ends(ORDER) == ("held", "locked", "locked")
        ready = world.events("checkout", ORDER)[-1]["data"]
        assert (ready["discount_minor"], ready["payable_minor"]) == (2_000, 4_000)
        assert [pot["reserved"] for pot in world.pots()] == [1_000, 1_000]
        world.pay("p", ORDER, 4_000).settle()
        assert world.ends(ORDER) == ("completed", "redeemed", "redeemed")
        assert (world.pots(), world.settled_minor(ORDER)) == ([SPENT, SPENT], 2_000)
        world.refund("r1", ORDER, 2_000).settle()
        assert (world.step(ORDER), world.settled_minor(ORDER)) == ("partly_refunded", 1_000)
        world.refund("r2", ORDER, 2_000).settle()
        assert world.ends(ORDER) == ("refunded", "returned", "returned")
        assert world.pots() == [SPENT | {"credited": 1_000}] * 2

    deaths.play(story)


def test_an_order_of_the_other_shard_is_the_same(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        order = f"{ON_1}-o"
        world.place(order, "c0", "c1").settle()
        world.pay("p", order, 4_000).settle()
        assert world.ends(order) == ("completed", "redeemed", "redeemed")
        assert (world.pots(), world.settled_minor(order)) == ([SPENT, SPENT], 2_000)

    deaths.play(story)


def test_a_hold_that_nobody_pays_is_released_on_both_shards_when_its_lock_ends(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        world.place(ORDER, "c0", "c1").settle()
        world.later(minutes=15).settle()
        assert world.ends(ORDER) == ("released", "released", "released")
        assert (world.pots(), world.checkout(ORDER)) == ([FREE, FREE], ["ready", "released"])
        causes = {event["data"]["cause"] for label in ("c0", "c1") for event in _released(world, label)}
        assert causes == {"lock_ended"}

    deaths.play(story)


def test_a_payment_after_the_release_borrows_again_and_redeems_what_was_promised(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        world.place(ORDER, "c0", "c1").settle()
        world.later(minutes=15).settle()
        world.pay("p", ORDER, 4_000).settle()
        assert world.ends(ORDER) == ("completed", "redeemed", "redeemed")
        assert (world.pots(), world.settled_minor(ORDER)) == ([SPENT, SPENT], 2_000)

    deaths.play(story)


def test_a_late_payment_whose_coupon_is_gone_by_then_completes_unredeemed_and_holds_nothing(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        world.place(ORDER, "c0", "c1").settle()
        world.later(minutes=15).settle()
        world.place(f"{ON_1}-quicker", "c1").settle()
        world.pay("p", ORDER, 4_000).settle()
        assert world.ends(ORDER) == ("unredeemed", "released", "locked")
        assert (world.pots(), world.settled_minor(ORDER)) == ([FREE, FREE | {"reserved": 1_000}], 0)

    deaths.play(story)


def test_refused_by_one_shard_the_other_gives_back(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        world.tell(RevokeCoupon(coupon_id=world.coupons["c1"], reason="fraud"))
        world.place(ORDER, "c0", "c1").settle()
        assert world.ends(ORDER) == ("refused", "released", "revoked")
        assert world.refusals(ORDER) == [("c1", "coupon_revoked")]
        assert world.pots() == [FREE, FREE]

    deaths.play(story)


def test_a_cancelled_order_gives_back_on_both_shards(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        world.place(ORDER, "c0", "c1").settle()
        world.cancel(ORDER).settle()
        assert world.ends(ORDER) == ("cancelled", "released", "released")
        world.reopen(ORDER).settle()
        assert world.ends(ORDER) == ("held", "locked", "locked")

    deaths.play(story)


def test_payment_and_refund_that_overtake_the_hold_are_decided_behind_it(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        world.refund("r", ORDER, 2_000).pay("p", ORDER, 4_000).settle()
        world.place(ORDER, "c0", "c1").settle()
        assert world.ends(ORDER) == ("partly_refunded", "redeemed", "redeemed")
        assert (world.checkout(ORDER), world.settled_minor(ORDER)) == (["ready", "completed", "refunded"], 1_000)

    deaths.play(story)


def test_of_two_orders_from_both_sides_for_the_same_coupons_one_holds_both(deaths: Deaths) -> None:
    def story(world: GiantWorld) -> None:
        mine, yours = f"{ON_0}-mine", f"{ON_1}-yours"
        world.place(mine, "c0", "c1").place(yours, "c1", "c0").settle()
        assert sorted([world.step(mine), world.step(yours)], key=str) == ["held", "refused"]
        loser = mine if world.step(mine) == "refused" else yours
        assert {code for _, code in world.refusals(loser)} == {"already_locked"}
        assert [pot["reserved"] for pot in world.pots()] == [1_000, 1_000]
        # Whoever it was: it is the same for everybody who looks.
        winner = yours if loser == mine else mine
        world.pay("p", winner, 4_000).settle()
        assert world.ends(winner) == ("completed", "redeemed", "redeemed")

    world = GiantWorld(deaths.stores, checkpoint=Death(deaths.at) if deaths.at else lambda _: None)
    story(world.cast())
    world.close()


def _released(world: GiantWorld, label: str) -> list[dict[str, Any]]:
    events = world.events("coupon", world.coupons[label])
    return [event for event in events if event["type"].startswith("coupon.released.")]


# Undisturbed only.


def test_every_reason_is_told_and_nothing_is_held(giant: GiantWorld) -> None:
    giant.template(f"{ON_0}-dear", minimum_spend_minor=9_000).claim("dear", template=f"{ON_0}-dear")
    giant.template(f"{ON_1}-strict", claimed_stay_valid=False).claim("strict", template=f"{ON_1}-strict")
    giant.tell(PauseTemplate(template_id=f"{ON_1}-strict"))
    giant.claim("bob", template=f"{ON_1}-ten-off", user="bob")
    giant.place(ORDER, "dear", "strict", "bob", "c1").settle()
    assert giant.step(ORDER) == "refused"
    assert giant.refusals(ORDER) == [
        ("dear", "minimum_spend_not_reached"),
        ("strict", "paused"),
        ("bob", "not_owner"),
    ]
    assert giant.coupon("c1") == "claimed"
    assert giant.owed() == []


def test_reasons_that_only_show_together_refuse_and_give_back_on_both_shards(giant: GiantWorld) -> None:
    giant.template(f"{ON_1}-alone", stacking={"exclusive": True}).claim("alone", template=f"{ON_1}-alone")
    giant.place(ORDER, "c0", "alone").settle()
    assert (giant.step(ORDER), giant.refusals(ORDER)) == ("refused", [("alone", "not_combinable")])
    assert (giant.coupon("c0"), giant.coupon("alone"), giant.pots()) == ("released", "released", [FREE, FREE])


def test_a_budget_that_is_too_short_on_the_other_shard_refuses(giant: GiantWorld) -> None:
    giant.budget(500, f"{ON_1}-small").template(f"{ON_1}-dear", budget_ids=(f"{ON_1}-small",))
    giant.claim("dear", template=f"{ON_1}-dear").place(ORDER, "c0", "dear").settle()
    assert (giant.step(ORDER), giant.refusals(ORDER)) == ("refused", [("dear", "budget_exhausted")])
    assert giant.pot(f"{ON_1}-small") == FREE


def test_coupons_on_one_pot_reserve_no_more_than_it_has_and_give_back_what_they_do_not_need(giant: GiantWorld) -> None:
    giant.claim("second", template=f"{ON_1}-ten-off").place(ORDER, "c0", "c1", "second").settle()
    assert [pot["reserved"] for pot in giant.pots()] == [1_000, 2_000]
    giant.pay("p", ORDER, 3_000).settle()
    assert [pot["committed"] for pot in giant.pots()] == [1_000, 2_000]
    small = giant.settled_minor(ORDER)
    assert small == 3_000


def test_a_lent_coupon_cannot_be_taken_away_under_its_order(giant: GiantWorld) -> None:
    giant.place(ORDER, "c0", "c1").settle()
    answer = giant.do(RevokeCoupon(coupon_id=giant.coupons["c1"], reason="fraud"))
    assert (answer.code, "cancel it first" in answer.detail) == ("already_locked", True)


def test_an_order_on_one_shard_borrows_nothing(giant: GiantWorld) -> None:
    giant.place(ORDER, "c0").settle()
    giant.pay("p", ORDER, 5_000).settle()
    assert (giant.step(ORDER), giant.coupon("c0")) == ("completed", "redeemed")
    assert giant.events("borrowing", ORDER) == []


@pytest.mark.parametrize("mode", ["twice", "late", "never"])
def test_letters_that_arrive_twice_or_whose_answers_are_lost_take_effect_once(stores: TwoStores, mode: str) -> None:
    settings = type(PATIENT)(retry_seconds_first=0.0, retry_seconds_max=0.0, answer_wait_seconds=0.01)
    world = GiantWorld(stores, settings=settings)
    lossy: dict[str, Lossy] = {}
    world.wrap = lambda engine: lossy.setdefault("line", Lossy(engine, mode))
    world.replace_process()
    world.cast().place(ORDER, "c0", "c1").settle()
    world.pay("p", ORDER, 4_000).settle()
    assert world.ends(ORDER) == ("completed", "redeemed", "redeemed")
    assert (world.pots(), world.settled_minor(ORDER)) == ([SPENT, SPENT], 2_000)
    world.close()


# A shard is away.


@pytest.mark.parametrize("away", [0, 1])
def test_a_shard_that_is_away_while_asked_delays_the_order_and_it_goes_on_when_it_is_back(
    giant: GiantWorld, away: int
) -> None:
    order = f"{(ON_1, ON_0)[away]}-o"
    giant.away.add(away)
    giant.place(order, "c0", "c1").settle()
    assert giant.checkout(order) == []
    giant.away.clear()
    giant.settle()
    assert giant.ends(order) == ("held", "locked", "locked")


def test_an_order_whose_lender_stays_away_is_refused_in_time_and_later_finds_nothing_lent(giant: GiantWorld) -> None:
    giant.away.add(1)
    giant.place(ORDER, "c0", "c1").settle()
    assert giant.coupon("c0") == "locked"
    giant.later(minutes=15).settle()
    assert (giant.step(ORDER), giant.refusals(ORDER)) == ("refused", [(None, "coupons_out_of_reach")])
    assert giant.coupon("c0") == "released"
    giant.away.clear()
    giant.settle()
    assert (giant.coupon("c1"), giant.pots(), giant.owed()) == ("released", [FREE, FREE], [])


def test_an_order_paid_while_a_lender_is_away_completes_there_when_it_is_back(giant: GiantWorld) -> None:
    giant.place(ORDER, "c0", "c1").settle()
    giant.away.add(1)
    giant.pay("p", ORDER, 4_000).settle()
    assert giant.ends(ORDER) == ("completed", "redeemed", "locked")
    giant.later(hours=5).settle()
    giant.away.clear()
    giant.settle()
    assert giant.ends(ORDER) == ("completed", "redeemed", "redeemed")
    assert giant.pots() == [SPENT, SPENT]


def test_verification_of_each_shard_holds_after_orders_over_both(stores: TwoStores, giant: GiantWorld) -> None:
    giant.place(ORDER, "c0", "c1").settle()
    giant.pay("p", ORDER, 4_000).settle()
    giant.refund("r", ORDER, 4_000).settle()
    for store in stores.shards:
        with psycopg.connect(store.dsn, autocommit=True) as connection:
            report = Verifier(connection, store.log, KINDS, None, None).run()
        assert report.violations == ()
