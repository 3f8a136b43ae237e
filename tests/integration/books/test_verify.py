"""`verify` holds on a busy day, and names each violation that is planted past the deciders, with its row."""

import json
from collections.abc import Callable

import pytest

from command.handlers import KINDS
from command.states import Entry, SnapshotFormats
from contracts.identity import Realm, stream_id
from tests.integration.books.conftest import Business
from tests.integration.books.planting import about, append, claimed

Plant = Callable[[Business], str]


def test_a_busy_day_holds_every_invariant(shared_day: Business) -> None:
    report = shared_day.verify()
    assert report.violations == ()
    assert report.compared == ("Redis", "ClickHouse")
    assert report.events > 50
    assert report.holds


def test_what_is_not_followed_yet_is_not_compared_and_what_came_since_still_holds(shared_day: Business) -> None:
    shared_day.world.claim("late", user="eve")
    assert shared_day.verify().not_compared == ("Redis", "ClickHouse")
    shared_day.follow()
    assert shared_day.verify().holds


# Planting.


def oversold(business: Business) -> str:
    return claimed(business, "extra1", "user1")


def over_the_user_limit(business: Business) -> str:
    return claimed(business, "third", "ann")


def a_counter_that_is_off(business: Business) -> str:
    business.sql.execute("UPDATE guard_counts SET value = value - 1 WHERE key LIKE '%%claims:ten-off:ann'")
    return "claims:ten-off:ann"


def an_acknowledged_claim_without_its_coupon(business: Business) -> str:
    business.sql.execute(
        "UPDATE command_log SET data = jsonb_set(data, '{coupon_id}', '\"gone\"')"
        " WHERE command_id = (SELECT min(command_id) FROM command_log WHERE command_type = 'claim_coupon')"
    )
    return "command "


def a_second_effect(business: Business) -> str:
    row = business.sql.execute(
        """SELECT command_id, key, data FROM events WHERE type = 'coupon.claimed.v1' ORDER BY "offset" LIMIT 1"""
    ).fetchone()
    assert row
    command_id, coupon_id, data = row
    return append(business, "coupon", f"{coupon_id}2", "coupon.claimed.v1", data, command_id=command_id)


def an_effect_without_a_command(business: Business) -> str:
    append(business, "order", "o9", "order.noted.v1", {"order_id": "o9", "status": "x"}, command_id="nobody")
    return "nobody"


def two_answers_to_one_command(business: Business) -> str:
    """The key forbids it; a restored or hand-mended table may not."""
    business.sql.execute("ALTER TABLE command_log DROP CONSTRAINT command_log_pkey")
    business.sql.execute(
        "INSERT INTO command_log SELECT tenant_id, app_id, command_id, command_type, content_hash, 'refused', 'ended',"
        " '', data, log_offset, answered_at FROM command_log WHERE command_id = 'told-1'"
    )
    return "told-1"


def a_gap_in_a_stream(business: Business) -> str:
    return append(business, "order", "paid", "order.noted.v1", {"order_id": "paid", "status": "x"}, version=9)


def a_poison_event(business: Business) -> str:
    business.sql.execute(
        "INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts, parked_at)"
        " VALUES ('wallet:v1', 'a/b/c/d', 7, 1, 'it is poison', 3, now())"
    )
    return "a/b/c/d@7"


def a_snapshot_that_lies(business: Business) -> str:
    kind = KINDS["budget"]
    stream = stream_id(business.world.realm, "budget", "pot")
    written = SnapshotFormats().of(kind).write(stream, Entry(kind, kind.initial, 2))
    business.sql.execute(
        "INSERT INTO stored_snapshots VALUES (%s, 2, %s, %s)", (stream, written.schema_hash, written.state)
    )
    return f"{stream}@2"


def a_coupon_falsified_in_redis(business: Business) -> str:
    coupon_id = business.world.coupons["a"]
    realm = business.world.realm
    key = business.bucket("coupon", f"{realm.key}/{coupon_id}")
    document = json.loads(business.redis.hget(key, "doc") or b"{}")
    document["doc"]["status"] = "claimed"
    business.redis.hset(key, "doc", json.dumps(document))
    return f"coupon/{coupon_id}"


def a_coupon_lost_in_redis(business: Business) -> str:
    coupon_id = business.world.coupons["a"]
    business.redis.delete(business.bucket("coupon", f"{business.world.realm.key}/{coupon_id}"))
    return f"coupon/{coupon_id}"


def a_fact_dropped(business: Business) -> str:
    business.clickhouse.command("DELETE FROM coupon_facts WHERE kind = 'released'")
    return "coupon.released.v1"


def an_amount_falsified(business: Business) -> str:
    business.clickhouse.command(
        "ALTER TABLE payment_facts UPDATE amount_minor = amount_minor + 1 WHERE payment_id = 'p1'"
        " SETTINGS mutations_sync = 2"
    )
    return "payment/p1"


def more_given_back_than_redeemed(business: Business) -> str:
    data = {
        "order_id": "paid",
        "refund_id": "r9",
        "coupon_id": business.world.coupons["a"],
        "about": about("ann"),
        "discount_minor": 1_001,
        "lines": [],
    }
    return append(business, "settlement", "paid", "settlement.reversed.v1", data)


def redeemed_for_more_than_was_locked(business: Business) -> str:
    coupon_id = business.world.coupons["b"]
    lock = {
        "coupon_id": coupon_id,
        "about": about("bob"),
        "order_id": "o9",
        "discount_minor": 10,
        "lock_until": "2026-03-02T00:00:00Z",
        "external": False,
    }
    append(business, "coupon", coupon_id, "coupon.locked.v1", lock)
    return append(business, "coupon", coupon_id, "coupon.redeemed.v1", {**lock, "discount_minor": 11})


def a_lock_that_never_ends(business: Business) -> str:
    lock = {
        "coupon_id": business.world.coupons["b"],
        "about": about("bob"),
        "order_id": "o9",
        "discount_minor": 10,
        "lock_until": "2026-03-01T12:05:00Z",
    }
    append(business, "coupon", business.world.coupons["b"], "coupon.locked.v1", lock)
    return f"coupon/{business.world.coupons['b']}"


def an_event_in_another_tenants_stream(business: Business) -> str:
    stream = stream_id(Realm("somebody", "else"), "order", "o9")
    return append(business, "order", "o9", "order.noted.v1", {"order_id": "o9", "status": "x"}, stream=stream)


def a_coupon_of_another_tenants_template(business: Business) -> str:
    return claimed(business, "foreign", "zed", template_id="not-of-this-realm")


def a_coupon_used_without_a_lock(business: Business) -> str:
    data = {
        "coupon_id": business.world.coupons["d"],
        "about": about("dee"),
        "order_id": "o9",
        "discount_minor": 0,
    }
    return append(business, "coupon", business.world.coupons["d"], "coupon.redeemed.v1", data)


def a_coupon_that_left_no_stock(business: Business) -> str:
    claimed(business, "unissued", "zed")
    return "template/ten-off"


def a_budget_overdrawn(business: Business) -> str:
    data = {
        "budget_id": "pot",
        "currency": "GBP",
        "period": "",
        "order_id": "o9",
        "coupon_id": "c9",
        "amount_minor": 1_000_000,
    }
    return append(business, "budget", "pot", "budget.reserved.v1", data)


def money_lent_that_was_not_reserved(business: Business) -> str:
    data = {
        "budget_id": "pot",
        "currency": "GBP",
        "holder": "1",
        "period": "",
        "number": 2,
        "amount_minor": 900,
        "reserved_delta_minor": 0,
        "left_minor": 0,
        "until": "2026-03-01T18:00:00Z",
    }
    return append(business, "budget", "pot", "budget.lease_granted.v1", data)


IN_THE_LOG = [
    ("I1", oversold),
    ("I1", over_the_user_limit),
    ("I1", a_counter_that_is_off),
    ("I2", an_acknowledged_claim_without_its_coupon),
    ("I2", a_second_effect),
    ("I3", an_effect_without_a_command),
    ("I5", a_gap_in_a_stream),
    ("I6", a_poison_event),
    ("I7", a_snapshot_that_lies),
    ("I9", more_given_back_than_redeemed),
    ("I9", redeemed_for_more_than_was_locked),
    ("I9", a_lock_that_never_ends),
    ("I10", an_event_in_another_tenants_stream),
    ("I10", a_coupon_of_another_tenants_template),
    ("I11", a_coupon_used_without_a_lock),
    ("I11", a_coupon_that_left_no_stock),
    ("I12", a_budget_overdrawn),
    ("I12", money_lent_that_was_not_reserved),
    ("I4", two_answers_to_one_command),  # Last: it drops a constraint that is not put back.
]

IN_THE_READ_MODELS = [
    ("I6", a_coupon_lost_in_redis, "coupon"),
    ("I8", a_coupon_falsified_in_redis, "coupon"),
    ("I6", a_fact_dropped, "facts"),
    ("I8", an_amount_falsified, "facts"),
]


def name(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", "")


def assert_named(business: Business, invariant: str, row: str) -> None:
    violations = business.verify().violations
    named = [each for each in violations if each.invariant == invariant and row in f"{each.subject} {each.detail}"]
    assert named, violations


@pytest.mark.parametrize(("invariant", "plant", "model"), IN_THE_READ_MODELS, ids=name)
def test_damage_to_a_read_model_is_named_and_a_rebuild_mends_it(
    shared_day: Business, invariant: str, plant: Plant, model: str
) -> None:
    assert_named(shared_day, invariant, plant(shared_day))
    shared_day.projections.rebuild(model)
    shared_day.projections.drop(model)
    assert shared_day.verify().holds


@pytest.mark.parametrize(("invariant", "plant"), IN_THE_LOG, ids=name)
def test_a_violation_planted_in_the_log_is_named_with_its_row(
    shared_day: Business, invariant: str, plant: Plant
) -> None:
    with shared_day.sql_undone():
        assert_named(shared_day, invariant, plant(shared_day))
