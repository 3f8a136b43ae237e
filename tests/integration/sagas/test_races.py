"""The ten races of a checkout on real PostgreSQL; in each the saga process dies after every step it can die after.

Every test is played undisturbed and then, for every checkpoint, with a death each time that the checkpoint is passed
(a second try survives). `make test-long` also plays each of those deaths alone. The story's own assertions and
everything that can be seen at its end must be the same.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from contracts.commands import PauseTemplate, QuoteOrder, TerminateTemplate
from infra.sagas.checkpoints import At
from tests.integration.sagas.world import PATIENT, Death, Lossy, Store, World

Story = Callable[[World], None]

STEPS_ALONG = "steps_along"  # Whoever tells a fact sends the saga's first step with it.
DEATHS_MAX = 60  # A story passes no checkpoint more often than this; a higher number would mean that it never ends.


def visible(world: World) -> dict[str, Any]:
    """All that the outside can see of a world, without what differs by realm only."""
    labels = {coupon_id: label for label, coupon_id in world.coupons.items()}
    streams = world.rows(
        "SELECT kind, key, array_agg(type ORDER BY version) AS types FROM events"
        " WHERE tenant_id = %s AND app_id = %s AND kind <> 'saga' GROUP BY kind, key ORDER BY kind, key",
        *world.realm,
    )
    standings = world.rows(
        "SELECT key, step, process_version FROM sagas WHERE tenant_id = %s AND app_id = %s ORDER BY key", *world.realm
    )
    timers = world.rows(
        "SELECT kind, key, due_at FROM timers WHERE tenant_id = %s AND app_id = %s ORDER BY kind, due_at", *world.realm
    )
    return {
        "streams": {f"{row['kind']}/{labels.get(row['key'], row['key'])}": row["types"] for row in streams},
        "sagas": standings,
        "timers": sorted((row["kind"], labels.get(row["key"], row["key"]), row["due_at"]) for row in timers),
        "owed": world.owed(),
        "double": world.double_effects(),
    }


# What an undisturbed play shows, by test: it is the same for each of its deaths.
UNDISTURBED: dict[str, dict[str, Any]] = {}


@dataclass
class Deaths:
    """Plays a story with deaths after one step."""

    store: Store
    at: At | str | None
    test: str

    def play(self, story: Story, *, sooner_is_otherwise: bool = False) -> None:
        """``sooner_is_otherwise``: with first steps sent along the order of facts differs, and so does the end."""
        if self.test not in UNDISTURBED:
            UNDISTURBED[self.test] = self._seen(story, World(self.store))
        undisturbed = UNDISTURBED[self.test]
        assert undisturbed["owed"] == []
        assert undisturbed["double"] == []
        if self.at == STEPS_ALONG:
            seen = self._seen(story, World(self.store, steps_along=True))
            assert seen == undisturbed or sooner_is_otherwise
            assert (seen["owed"], seen["double"]) == ([], [])
        if not isinstance(self.at, At):
            return
        self._dies(story, Death(self.at), undisturbed)
        if os.environ.get("TESSERA_TEST_EFFORT") == "long":
            self._dies_alone(story, self.at, undisturbed)

    def _dies(self, story: Story, death: Death, undisturbed: dict[str, Any]) -> None:
        world = World(self.store, checkpoint=death)
        assert self._seen(story, world) == undisturbed
        assert world.deaths == death.came

    def _dies_alone(self, story: Story, at: At, undisturbed: dict[str, Any]) -> None:
        for nth in range(1, DEATHS_MAX):
            death = Death(at, nth)
            self._dies(story, death, undisturbed)
            if not death.came:
                return
        raise AssertionError("the story never ends")

    def _seen(self, story: Story, world: World) -> dict[str, Any]:
        try:
            story(world)
            return visible(world)
        finally:
            world.close()


@pytest.fixture(
    params=[None, STEPS_ALONG, *At],
    ids=lambda at: f"dies_after_{at}" if isinstance(at, At) else at or "undisturbed",
)
def deaths(request: pytest.FixtureRequest, store: Store) -> Deaths:
    """Undisturbed, with first steps sent along, and once for each step that a saga process can die after."""
    assert isinstance(request.node, pytest.Function)
    others = {name: value for name, value in request.node.callspec.params.items() if name != "deaths"}
    return Deaths(store, request.param, f"{request.node.originalname} {others}")


# 1. The payment comes after the lock ended.


def test_race_1_a_payment_after_the_lock_ended_holds_and_redeems_again(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.budget(1_000).template(budget_ids=("pot",)).claim().place().settle()
        world.later(minutes=15).settle()
        assert (world.step(), world.coupon(), world.checkout()) == ("released", "released", ["ready", "released"])
        world.pay().settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("completed", "redeemed", 1_000)
        assert world.pot() == {"reserved": 0, "committed": 1_000, "credited": 0}

    deaths.play(story)


def test_race_1_a_payment_that_comes_with_the_end_of_the_lock_redeems(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place().settle()
        world.later(minutes=15).pay().settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("completed", "redeemed", 1_000)

    deaths.play(story)


def test_race_1_a_late_payment_whose_coupon_is_gone_completes_the_order_unredeemed(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place("o").settle()
        world.later(minutes=15).settle()
        world.place("quicker").settle()
        world.pay("p").settle()
        assert (world.step("o"), world.checkout("o")) == ("unredeemed", ["ready", "released", "completed_unredeemed"])
        assert (world.step("quicker"), world.coupon(), world.settled_minor("o")) == ("held", "locked", 0)

    deaths.play(story)


def test_race_1_a_late_payment_is_honoured_over_the_limit_where_the_terms_say_so(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.budget(1_000).template(budget_ids=("pot",), on_late_payment="honour").claim("c").claim("d", user="bob")
        world.place("o").settle()
        world.later(minutes=15).settle()
        world.place("quicker", "d", user="bob").settle()
        world.pay("p").settle()
        assert (world.step("o"), world.coupon("c"), world.settled_minor("o")) == ("completed", "redeemed", 1_000)
        assert world.events("checkout", "o")[-1]["data"]["honoured"] is True
        assert world.pot() == {"reserved": 1_000, "committed": 1_000, "credited": 0}

    deaths.play(story)


# 2. Cancel arrives before, with, or after payment.


def test_race_2_cancelled_before_the_payment_redeems_nothing_and_says_that_money_came(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.budget(1_000).template(budget_ids=("pot",)).claim().place().settle()
        world.cancel().settle()
        assert (world.step(), world.coupon(), world.pot()["reserved"]) == ("cancelled", "released", 0)
        world.pay().settle()
        assert (world.step(), world.coupon()) == ("unredeemed", "released")
        assert world.checkout() == ["ready", "released", "completed_unredeemed"]
        world.refund().settle()
        assert (world.step(), world.checkout()[-1], world.pot()["credited"]) == ("refunded", "refunded", 0)

    deaths.play(story)


@pytest.mark.parametrize("order", ["cancel_first", "payment_first"])
def test_race_2_cancelled_together_with_the_payment_redeems_nothing(deaths: Deaths, order: str) -> None:
    def story(world: World) -> None:
        world.template().claim().place().settle()
        # Both are facts before the redemption is decided, so the cancellation counts, whichever was told first.
        (world.cancel().pay() if order == "cancel_first" else world.pay().cancel()).settle()
        if world.steps_along and order == "payment_first":  # Decided with the payment: the cancellation came after.
            assert (world.step(), world.checkout()) == ("completed", ["ready", "completed"])
            return
        assert (world.step(), world.coupon(), world.settled_minor()) == ("unredeemed", "released", 0)
        assert world.checkout() == ["ready", "released", "completed_unredeemed"]

    deaths.play(story, sooner_is_otherwise=order == "payment_first")


def test_race_2_cancelled_after_the_redemption_waits_for_the_refund(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place().pay().settle()
        world.cancel().settle()
        assert (world.step(), world.coupon()) == ("completed", "redeemed")
        world.refund().settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("refunded", "returned", 0)

    deaths.play(story)


def test_race_2_cancelled_before_the_order_itself_is_told_holds_nothing(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().cancel().settle()
        world.place().settle()
        assert (world.step(), world.coupon(), world.checkout()) == ("cancelled", "claimed", ["refused"])

    deaths.play(story)


# 3. Payment or refund arrives before its order.


def test_race_3_a_payment_before_its_order_waits_and_then_redeems(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().pay().settle()
        assert (world.step(), world.checkout()) == ("awaiting_order", [])
        world.place().settle()
        assert (world.step(), world.coupon(), world.checkout()) == ("completed", "redeemed", ["ready", "completed"])

    deaths.play(story)


def test_race_3_payment_and_refund_before_their_order_are_both_remembered(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().refund().pay().settle()
        assert world.step() == "awaiting_order"
        world.place().settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("refunded", "returned", 0)

    deaths.play(story)


# 4. The same payment twice; two payments.


def test_race_4_the_same_payment_twice_redeems_once(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.budget(1_000).template(budget_ids=("pot",)).claim().place().settle()
        world.pay("p").pay("p").settle()
        world.pay("p").settle()
        assert (world.step(), world.checkout(), world.settled_minor()) == ("completed", ["ready", "completed"], 1_000)
        assert world.pot()["committed"] == 1_000

    deaths.play(story)


def test_race_4_two_payments_of_one_order_redeem_once(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.budget(1_000).template(budget_ids=("pot",)).claim().place().settle()
        world.pay("p1").pay("p2").settle()
        assert (world.step(), world.checkout(), world.settled_minor()) == ("completed", ["ready", "completed"], 1_000)
        assert world.events("checkout", "o")[-1]["data"]["payment_id"] == "p1"
        assert world.pot()["committed"] == 1_000

    deaths.play(story)


def test_race_4_a_payment_that_failed_and_then_succeeds_redeems(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place().settle()
        world.fail("p").settle()
        assert (world.step(), world.coupon()) == ("released", "released")
        world.pay("p").settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("completed", "redeemed", 1_000)

    deaths.play(story)


# 5. Refunds.


def test_race_5_a_refund_before_the_redemption_is_credited_behind_it(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place().settle()
        world.refund("r", "o", 1_000).settle()
        assert (world.step(), world.checkout()) == ("held", ["ready"])
        world.pay().settle()
        assert (world.step(), world.checkout()) == ("partly_refunded", ["ready", "completed", "refunded"])
        assert world.settled_minor() == 800

    deaths.play(story)


def test_race_5_a_refund_after_the_coupon_expired_returns_and_expires_it(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place().pay().settle()
        world.later(days=8).refund().settle()
        assert world.step() == "refunded"
        assert world.types("coupon", world.coupons["c"])[-2:] == ["returned", "expired"]

    deaths.play(story)


def test_race_5_partial_refunds_add_up_to_the_whole_and_return_the_coupon_once(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.budget(1_000).template(budget_ids=("pot",)).claim().place().pay().settle()
        world.refund("r1", "o", 1_700).settle()
        assert (world.step(), world.coupon()) == ("partly_refunded", "redeemed")
        world.refund("r2", "o", 1_700).refund("r3", "o", 1_600).settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("refunded", "returned", 0)
        assert world.pot() == {"reserved": 0, "committed": 1_000, "credited": 1_000}

    deaths.play(story)


def test_race_5_a_refund_larger_than_was_paid_credits_no_more_than_was_given(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.budget(1_000).template(budget_ids=("pot",)).claim().place().pay().settle()
        world.refund("r1", "o", 9_000).settle()
        assert (world.step(), world.settled_minor()) == ("refunded", 0)
        assert world.events("checkout", "o")[-1]["data"]["excess_minor"] == 4_000
        world.refund("r2", "o", 1_000).settle()
        assert (world.step(), world.pot()["credited"]) == ("refunded", 1_000)

    deaths.play(story)


# 6. Reopened.


def test_race_6_a_reopened_order_holds_anew(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place().settle()
        world.cancel().settle()
        world.reopen().settle()
        assert (world.step(), world.coupon(), world.checkout()) == ("held", "locked", ["ready", "released", "ready"])
        world.pay().settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("completed", "redeemed", 1_000)

    deaths.play(story)


def test_race_6_a_reopened_order_whose_coupon_is_gone_is_refused(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place("o").settle()
        world.cancel("o").settle()
        world.place("quicker").settle()
        world.reopen("o").settle()
        assert (world.step("o"), world.checkout("o")) == ("refused", ["ready", "released", "refused"])
        assert (world.step("quicker"), world.coupon()) == ("held", "locked")

    deaths.play(story)


def test_race_6_an_order_cancelled_and_reopened_at_once_ends_up_held(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place().settle()
        world.cancel().reopen().settle()
        assert (world.step(), world.coupon()) == ("held", "locked")
        assert world.checkout() == ["ready", "released", "ready"]

    deaths.play(story)


def test_race_6_a_payment_right_behind_the_reopening_pays_for_the_new_attempt(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place().settle()
        world.later(minutes=15).settle()
        world.reopen().pay().settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("completed", "redeemed", 1_000)
        assert world.checkout() == ["ready", "released", "ready", "completed"]

    deaths.play(story)


# 7. Two orders race for one coupon.


def test_race_7_of_two_orders_for_one_coupon_one_holds_and_the_other_learns_already_locked(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template().claim().place("a").place("b").settle()
        assert sorted([world.step("a"), world.step("b")], key=str) == ["held", "refused"]
        loser = "a" if world.step("a") == "refused" else "b"
        refusals = world.events("checkout", loser)[-1]["data"]["refusals"]
        assert [refusal["code"] for refusal in refusals] == ["already_locked"]
        assert world.types("coupon", world.coupons["c"]).count("locked") == 1

    deaths.play(story)


# 8. The budget runs out between quote and hold.


def test_race_8_a_budget_that_ran_out_since_the_quote_refuses_and_nothing_is_held(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.budget(1_500).template(budget_ids=("pot",)).template("plain").claim("c").claim("d", user="bob")
        world.claim("e", template="plain")
        told = world.placing("o", "c", "e")
        quote = world.do(QuoteOrder(**told.model_dump(include={"user_id", "currency", "coupon_ids"}), lines=told.lines))
        assert (quote.data["discount_minor"], quote.data["unusable"]) == (2_000, [])
        world.place("quicker", "d", user="bob").settle()
        world.tell(told).settle()
        assert (world.step("o"), world.step("quicker")) == ("refused", "held")
        assert [refusal["code"] for refusal in world.events("checkout", "o")[-1]["data"]["refusals"]] == [
            "budget_exhausted"
        ]
        assert (world.coupon("c"), world.coupon("e"), world.pot()["reserved"]) == ("claimed", "claimed", 1_000)

    deaths.play(story)


# 9. The template is paused or ended between claim and hold.


def test_race_9_claimed_coupons_stay_valid_when_their_template_is_paused_or_ended(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template("a").template("b").claim("c", template="a").claim("d", template="b")
        world.tell(PauseTemplate(template_id="a")).tell(TerminateTemplate(template_id="b"))
        world.place("o", "c", "d").settle()
        assert (world.step(), world.coupon("c"), world.coupon("d")) == ("held", "locked", "locked")

    deaths.play(story)


def test_race_9_coupons_fall_with_their_template_where_the_terms_say_so(deaths: Deaths) -> None:
    def story(world: World) -> None:
        world.template("a", claimed_stay_valid=False).template("b", claimed_stay_valid=False)
        world.claim("c", template="a").claim("d", template="b")
        world.tell(PauseTemplate(template_id="a")).tell(TerminateTemplate(template_id="b"))
        world.place("o", "c", "d").settle()
        assert world.step() == "refused"
        codes = [refusal["code"] for refusal in world.events("checkout", "o")[-1]["data"]["refusals"]]
        assert codes == ["paused", "ended"]
        assert (world.coupon("c"), world.coupon("d")) == ("claimed", "claimed")

    deaths.play(story)


# 10. The saga process dies after any single step (above, everywhere); answers come twice, late, or never.


@pytest.mark.parametrize("mode", ["twice", "late", "never"])
def test_race_10_a_command_answered_twice_late_or_never_takes_effect_once(deaths: Deaths, mode: str) -> None:
    def story(world: World) -> None:
        world.settings = type(PATIENT)(retry_seconds_first=0.0, retry_seconds_max=0.0, answer_wait_seconds=0.01)
        lossy = Lossy(world.store.engine, mode)  # It outlives the saga process, as a bad line does.
        world.wrap = lambda engine: lossy
        world.replace_process()
        world.budget(1_000).template(budget_ids=("pot",)).claim().place().settle()
        assert world.step() == "held"
        world.later(minutes=15).settle()
        assert world.step() == "released"
        world.pay().settle()
        world.refund("r1", "o", 1_000).settle()
        world.refund("r2", "o", 4_000).settle()
        assert (world.step(), world.coupon(), world.settled_minor()) == ("refunded", "returned", 0)
        assert world.checkout() == ["ready", "released", "completed", "refunded", "refunded"]
        assert world.pot() == {"reserved": 0, "committed": 1_000, "credited": 1_000}

    deaths.play(story)
