"""Several shards verified as one: whatever an order does holds at every moment, and what is planted is named."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from contracts.commands import GrantBudgetLease, OpenBudgetLease, ShareBudget
from contracts.envelope import CommandEnvelope
from contracts.leases import BranchTerms
from infra.cli.errors import ExitCode
from tests.engines import Corners
from tests.integration.shards.command_line import Operator
from tests.integration.shards.readside import ReadWorld, prepared
from tests.integration.shards.world import ON_0, ON_1, PLACEMENT, GiantWorld, TwoStores, verified

ORDER = f"{ON_0}-order"
LENT = f"order/{ORDER}, lent by shard 1"
ROUNDS_MAX = 60

Named = tuple[str, int | None, str]  # Invariant, shard, and a part of the detail.
Plant = Callable[[GiantWorld], None]


@pytest.fixture
def damaged(corners: Corners) -> Iterator[GiantWorld]:
    """A realm of the giant in stores of its own, so that nobody else sees what is done to them."""
    with corners.postgres() as zero, corners.postgres() as one:
        stores = TwoStores(zero, one)
        world = GiantWorld(stores)
        yield world.cast()
        world.close()
        stores.close()


def held(giant: GiantWorld) -> None:
    giant.place(ORDER, "c0", "c1").settle()


def paid(giant: GiantWorld) -> None:
    held(giant)
    giant.pay("p", ORDER, 4_000).settle()


def cancelled(giant: GiantWorld) -> None:
    held(giant)
    giant.cancel(ORDER).settle()


def forget(giant: GiantWorld, shard: int, *types: str) -> None:
    """Take the last event of each of these types out of one log, as if it had never been written."""
    for each in types:
        giant.rows_of(
            shard,
            "DELETE FROM stored_events WHERE notification_id = (SELECT max(notification_id) FROM stored_events"
            " WHERE topic = %s AND originator_id LIKE %s) RETURNING 1",
            each,
            f"{giant.realm.key}/%",
        )


def change(giant: GiantWorld, shard: int, type_: str, before: str, after: str) -> None:
    """Change words in the last event of a type, in one log."""
    (row,) = giant.rows_of(
        shard,
        "UPDATE stored_events SET state = convert_to(replace(convert_from(state, 'UTF8'), %s, %s), 'UTF8')"
        " WHERE notification_id = (SELECT max(notification_id) FROM stored_events WHERE topic = %s"
        " AND originator_id LIKE %s) RETURNING convert_from(state, 'UTF8') AS now",
        before,
        after,
        type_,
        f"{giant.realm.key}/%",
    )
    assert after in row["now"]


def test_both_shards_hold_at_every_moment_of_an_order(stores: TwoStores, giant: GiantWorld) -> None:
    moments: list[Callable[[], object]] = [
        lambda: giant.place(ORDER, "c0", "c1"),
        lambda: giant.pay("p", ORDER, 4_000),
        lambda: giant.refund("r", ORDER, 4_000),
        lambda: giant.place(f"{ON_1}-other", "c1", "c0"),
        lambda: giant.cancel(f"{ON_1}-other"),
    ]
    for happens in moments:
        happens()
        for _ in range(ROUNDS_MAX):
            assert verified(stores).violations == ()
            if giant.run_once() == 0:
                break
    report = verified(stores)
    assert (set(report.shards), min(report.shards.values()) > 0) == ({0, 1}, True)
    assert report.not_compared[0] == "Redis of shard 0"


def test_what_waits_for_a_shard_that_is_away_is_no_violation(stores: TwoStores, giant: GiantWorld) -> None:
    held(giant)
    giant.away.add(1)
    giant.pay("p", ORDER, 4_000).settle()
    assert giant.ends(ORDER) == ("completed", "redeemed", "locked")
    assert verified(stores).violations == ()
    giant.away.clear()
    giant.settle()
    assert verified(stores).violations == ()


# Planting: what happened before, what is damaged, and what has to be named.


def a_word_that_the_lender_lost(giant: GiantWorld) -> None:
    cancelled(giant)
    forget(giant, 1, "loan.changed.v1", "coupon.released.v1", "budget.released.v1")


def an_end_that_nobody_told(giant: GiantWorld) -> None:
    a_word_that_the_lender_lost(giant)
    forget(giant, 0, "borrowing.told.v1")


def a_loan_of_which_the_lender_knows_nothing(giant: GiantWorld) -> None:
    held(giant)
    forget(giant, 1, "loan.changed.v1", "loan.answered.v1")


def a_loan_to_an_order_that_never_asked(giant: GiantWorld) -> None:
    held(giant)
    change(giant, 0, "borrowing.asked.v1", '"nth":1', '"nth":7')


def an_answer_that_was_another_on_the_way(giant: GiantWorld) -> None:
    held(giant)
    change(giant, 0, "borrowing.answered.v1", '"amount_minor":1000', '"amount_minor":1900')


def other_amounts_on_both_sides(giant: GiantWorld) -> None:
    paid(giant)
    change(giant, 1, "loan.changed.v1", '"amount_minor":1000', '"amount_minor":900')


def another_settlement_than_was_redeemed(giant: GiantWorld) -> None:
    paid(giant)
    change(giant, 0, "settlement.recorded.v1", '"discount_minor":1000', '"discount_minor":800')


def a_redemption_that_the_order_never_told(giant: GiantWorld) -> None:
    paid(giant)
    forget(giant, 0, "borrowing.told.v1")


def a_coupon_that_a_loan_lost(giant: GiantWorld) -> None:
    held(giant)
    forget(giant, 1, "coupon.locked.v1")


def money_that_a_loan_lost(giant: GiantWorld) -> None:
    held(giant)
    forget(giant, 1, "budget.reserved.v1")


def a_tenant_that_lives_elsewhere(giant: GiantWorld) -> None:
    giant.rows_of(
        1,
        "UPDATE stored_events SET originator_id = replace(originator_id, %s, 'zero/shop'), state = convert_to("
        "replace(convert_from(state, 'UTF8'), '\"tenant\":\"giant\"', '\"tenant\":\"zero\"'), 'UTF8')"
        " WHERE originator_id LIKE %s RETURNING 1",
        giant.realm.key,
        f"{giant.realm.key}/clock/%",
    )


def a_template_that_lies_elsewhere(giant: GiantWorld) -> None:
    giant.rows_of(
        1,
        "UPDATE stored_events SET state = convert_to(replace(convert_from(state, 'UTF8'), %s, %s), 'UTF8')"
        " WHERE originator_id LIKE %s AND topic LIKE 'template.%%' RETURNING 1",
        f"{ON_1}-ten-off",
        f"{ON_0}-lost",
        f"{giant.realm.key}/%",
    )


def a_lease_that_is_larger_than_it_was_granted(giant: GiantWorld) -> None:
    key = f"{ON_0}-pot"
    home, holder = (store.engine for store in giant._stores)
    terms = BranchTerms(name="", currency="GBP", recurs=None, zone="UTC", when_short="refuse")
    until = giant.now.replace(year=2030)
    granted = GrantBudgetLease(
        budget_id=key, holder="1", period="", number=1, need_minor=700, free_minor=0, term_seconds=900
    )
    opened = OpenBudgetLease(
        budget_id=key, period="", number=1, amount_minor=1_900, left_minor=0, until=until, terms=terms
    )
    for engine, command in ((home, ShareBudget(budget_id=key, holder="1")), (home, granted), (holder, opened)):
        assert engine.execute(CommandEnvelope(giant.realm, f"l-{command.type}", command, "test", "test")).accepted


@pytest.mark.parametrize(
    ("plant", "invariant", "subject", "told"),
    [
        (a_word_that_the_lender_lost, "I9", LENT, "lent, but the order's shard said release"),
        (an_end_that_nobody_told, "I9", LENT, "still lent after checkout.released.v1"),
        (a_loan_of_which_the_lender_knows_nothing, "I9", LENT, "shard 0 took in an answer to borrowing 1"),
        (a_loan_to_an_order_that_never_asked, "I9", LENT, "lent for borrowing 1, which the order's shard never asked"),
        (an_answer_that_was_another_on_the_way, "I12", LENT, "another answer than the lender gave: budgets"),
        (other_amounts_on_both_sides, "I12", LENT, "the order's shard says"),
        (another_settlement_than_was_redeemed, "I9", LENT, "redeemed 1000 at its lender, the order settled 800"),
        (a_redemption_that_the_order_never_told, "I9", LENT, "redeemed, but the order's shard said freeze"),
        (a_coupon_that_a_loan_lost, "I9", LENT, "lent, but coupon"),
        (money_that_a_loan_lost, "I12", LENT, "but 0 is reserved for it"),
        (a_tenant_that_lives_elsewhere, "I10", "zero/shop", "events here, but it lives on shard 0"),
        (a_template_that_lies_elsewhere, "I10", f"template/{ON_0}-lost", "belongs on shard 0"),
        (a_lease_that_is_larger_than_it_was_granted, "I12", "holder 1", "lease 1: 1900 opened"),
    ],
    ids=lambda it: it.__name__ if callable(it) else None,
)
def test_what_does_not_hold_between_shards_is_named_with_its_shard(
    damaged: GiantWorld, plant: Plant, invariant: str, subject: str, told: str
) -> None:
    plant(damaged)
    two: Any = damaged.store
    found = verified(two).violations
    named = [it for it in found if it.invariant == invariant and subject in it.subject and told in it.detail]
    assert named, found
    assert {it.shard for it in named} == {0 if "holder" in subject else 1}


@pytest.fixture
def business(corners: Corners, tmp_path: Path) -> Iterator[tuple[GiantWorld, ReadWorld, Operator]]:
    """A realm of the giant over two shards with all their stores, and an operator of both."""
    with prepared(corners, data_dir=tmp_path) as settings:
        stores = TwoStores(*settings.stores.values())
        world = GiantWorld(stores)
        yield world.cast(), ReadWorld(settings, ""), Operator(settings)
        world.close()
        stores.close()


def test_an_operator_verifies_and_reconciles_all_shards_at_once(
    business: tuple[GiantWorld, ReadWorld, Operator],
) -> None:
    giant, stores, tessera = business
    paid(giant)
    stores.catch_up()
    shown = tessera.shown("verify")
    assert shown["violations"] == []
    assert shown["compared"] == [f"{store} of shard {shard}" for shard in (0, 1) for store in ("Redis", "ClickHouse")]
    assert set(shown["shards"]) == {"0", "1"}
    assert tessera.shown("reconcile", "run")["breaks"] == []  # Coupons of one shard, their order of another.

    giant.pay("p2", ORDER, 4_000).settle()
    stores.catch_up()
    found = tessera.run("reconcile", "run", "--json")
    assert (found.exit_code, json.loads(found.stdout)["opened"]) == (ExitCode.FINDINGS, 1), found.output
    (row,) = json.loads(found.stdout)["breaks"]
    assert row["kind"] == "duplicate_payment"
    belongs = PLACEMENT.shard_of(giant.realm, row["break_id"])
    assert [f"break/{row['break_id']}" in tessera.streams(shard, giant.realm) for shard in (0, 1)] == [
        belongs == 0,
        belongs == 1,
    ]
    stores.catch_up()
    again = tessera.run("reconcile", "run", "--json")
    assert (json.loads(again.stdout)["opened"], json.loads(again.stdout)["closed"]) == (0, 0), again.output
    explained = tessera.shown("reconcile", "explain", row["break_id"])
    assert {event["event_id"] for event in explained["events"]} == set(row["event_ids"])

    change(giant, 0, "borrowing.answered.v1", '"amount_minor":1000', '"amount_minor":1900')
    damaged = tessera.run("verify")
    assert damaged.exit_code == ExitCode.FINDINGS
    assert "another answer than the lender gave" in " ".join(damaged.stdout.split())
    assert "; shard 1)" in " ".join(damaged.stdout.split())


def test_figures_that_differ_on_two_shards_are_two_breaks(business: tuple[GiantWorld, ReadWorld, Operator]) -> None:
    giant, stores, tessera = business
    paid(giant)
    stores.catch_up()
    with redis.Redis.from_url(stores.settings.redis_url) as client:
        for key in list(client.scan_iter("budget*:v*")):
            for name, value in client.hgetall(key).items():
                client.hset(key, name, value.replace(b"3000", b"3111"))
    found = tessera.run("reconcile", "run", "--json")
    rows = json.loads(found.stdout)["breaks"]
    assert {row["kind"] for row in rows} == {"store_drift"}, found.output
    assert {row["subject"].partition(":")[0] for row in rows} == {"shard 0", "shard 1"}
    assert {(row["tenant_id"], row["app_id"]) for row in rows} == {("giant", giant.realm.app_id)}
