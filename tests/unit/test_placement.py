"""Which shard holds what, from ids alone; and commands to shards."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest

from command.domain.ids import coupon_id, coupon_ids
from command.engine import Busy, Listener
from contracts.commands import (
    AdvanceClock,
    ClaimCoupon,
    Command,
    CreateBudget,
    CreateTemplate,
    LockCoupon,
    PlaceOrder,
    ReportRefund,
    StartDistribution,
)
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.placement import COUPON_ID_LENGTH, SLOTS, Placement, PlacementError, coupon_slot, slot_of
from contracts.position import Position
from infra.settings import Settings, SettingsError
from infra.shards.router import NOT_PLACEABLE, Router, shard_of
from tests.builders import terms

NOON_MS: Final = 1_772_452_800_000
SMALL, GIANT = Realm("acme", "shop"), Realm("giant", "shop")
PLACEMENT = Placement.of((0, 1), tenants={"acme": 1}, spread={"giant": {0: "0-511", 1: "512-1023"}})


def keys_on(shard: int, prefix: str) -> str:
    """An id that lies on a shard of the giant."""
    return next(
        key for key in (f"{prefix}{number}" for number in range(100)) if PLACEMENT.shard_of(GIANT, key) == shard
    )


def envelope(command: Command, realm: Realm = GIANT) -> CommandEnvelope:
    return CommandEnvelope(realm, "id-1", command, "test", "test")


def test_a_coupon_id_carries_the_slot_of_its_template() -> None:
    for number in range(200):
        template_id = f"template-{number}"
        one = coupon_id(GIANT, template_id, "ann", 1)
        assert coupon_slot(one) == slot_of(template_id)
        assert coupon_ids(GIANT, template_id, [("ann", 1), ("ann", 2)]) == [
            one,
            coupon_id(GIANT, template_id, "ann", 2),
        ]


def api_id(milliseconds: int) -> str:
    """As the API makes them."""
    return f"{milliseconds << 80 | 12_345:032x}"


def uuid7(milliseconds: int) -> str:
    """As callers may make them."""
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | 12_345))


@pytest.mark.parametrize(
    "made", [api_id, uuid7, lambda time: f"{api_id(time)}:{time % 1_000}", lambda time: f"{uuid7(time)}:7"]
)
def test_coupons_of_a_template_sort_by_the_time_in_the_ids_of_their_commands(made: Callable[[int], str]) -> None:
    times = [NOON_MS + milliseconds for milliseconds in (0, 4_096, 131_072, 4_194_304, 134_217_728, 86_400_000_000)]
    ids = [coupon_id(GIANT, "t1", f"user-{len(times) - nth}", 1, made(at)) for nth, at in enumerate(times)]
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {COUPON_ID_LENGTH}
    assert {coupon_slot(each) for each in ids} == {slot_of("t1")}


@pytest.mark.parametrize(
    "command_id",
    [
        *("", "claim-1", "x" * 32, "é" * 36, "0" * 31 + "\n", "0" * 33),
        *("import:shop:00000000000000000000", "20260301-claim-of-anna-and-of-nobody"),
        "7e2f0d3c-6f0e-4d0a-9c1b-1f2e3d4c5b6a",  # A UUID of version 4.
    ],
)
def test_commands_without_a_time_in_their_ids_make_coupons_without_one(command_id: str) -> None:
    assert coupon_id(GIANT, "t1", "ann", 1, command_id) == coupon_id(GIANT, "t1", "ann", 1)


def test_what_a_command_with_a_time_gives_out_does_not_depend_on_what_was_given_out_before() -> None:
    first, second = api_id(NOON_MS), api_id(NOON_MS + 1)
    assert coupon_id(GIANT, "t1", "ann", 1, first) == coupon_id(GIANT, "t1", "ann", 2, first)
    one_each = {
        coupon_id(GIANT, "t1", user, 1, it, place) for user in "ab" for it in (first, second) for place in (0, 1)
    }
    assert len(one_each) == 8


def test_the_ids_of_many_coupons_are_those_of_each() -> None:
    claims = [("ann", 1), ("b/b", 2), ("cleo", 1)]
    for command_ids in ([api_id(NOON_MS), "claim-1", api_id(NOON_MS + 10_000)], ["a", "b", "c"]):
        assert coupon_ids(GIANT, "t1", claims, command_ids) == [
            coupon_id(GIANT, "t1", *claim, command_id) for claim, command_id in zip(claims, command_ids, strict=True)
        ]


def test_what_shares_a_part_in_braces_shares_a_slot() -> None:
    assert slot_of("{spring}-pot") == slot_of("{spring}-ten-off") == slot_of("spring")
    assert slot_of("{}-pot") != slot_of("")  # Nothing in the braces: all of it counts.


def test_a_tenant_lives_where_it_is_placed_and_everybody_else_on_the_default() -> None:
    more_exact = Placement.of((0, 1, 2), default=2, tenants={"acme": 0, "acme/outlet": 1})
    assert more_exact.shards_of(Realm("acme", "shop")) == (0,)
    assert more_exact.shards_of(Realm("acme", "outlet")) == (1,)
    assert more_exact.shards_of(Realm("nobody", "shop")) == (2,)


@pytest.mark.parametrize(
    ("spread", "why"),
    [
        ({0: "0-511"}, "on no shard"),
        ({0: "0-600", 1: "512-1023"}, "placed twice"),
        ({0: "0-511", 2: "512-1023"}, "not among"),
        ({0: "0-511", 1: "512-1024"}, "no range within"),
        ({0: "all"}, "does not read like"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused_with_its_reason(spread: dict[int, str], why: str) -> None:
    with pytest.raises(PlacementError, match=why):
        Placement.of((0, 1), spread={"giant": spread})


def test_settings_that_name_an_unknown_shard_do_not_load() -> None:
    addresses = {"postgres_dsn": "postgresql://h/a", "redis_url": "redis://h", "clickhouse_url": "http://h"}
    with pytest.raises(SettingsError, match="acme is placed on shard 3"):
        Settings.load(**addresses, tenant_shards={"acme": 3})
    settings = Settings.load(**addresses, shard_dsns={"1": "postgresql://h/b"}, tenant_shards={"acme": 1})
    assert settings.stores == {0: "postgresql://h/a", 1: "postgresql://h/b"}
    assert settings.at_shard(1).postgres_dsn == "postgresql://h/b"
    assert settings.at_shard(1).stores == settings.stores


class OneShard:
    """Stands where an engine stands: notes what came."""

    def __init__(self, shard: int, *, is_full: bool = False) -> None:
        self.shard = shard
        self.is_full = is_full
        self.taken: list[Command] = []

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        if self.is_full:
            raise Busy("full")
        for each, listener in envelopes:
            self.taken.append(each.command)
            listener(Answer("accepted", "ok", "", {}, Position(self.shard, "e", len(self.taken))))


def router(*engines: OneShard) -> Router:
    given: Any = {engine.shard: engine for engine in engines}
    return Router(given, {shard: Position(shard, "e", 0) for shard in given}, PLACEMENT)


def test_commands_go_where_what_they_name_lies() -> None:
    template, order = keys_on(1, "t"), keys_on(0, "o")
    held = coupon_id(GIANT, template, "ann", 1)
    assert shard_of(PLACEMENT, envelope(ClaimCoupon(template_id=template, user_id="ann"))) == 1
    assert shard_of(PLACEMENT, envelope(LockCoupon(coupon_id=held, order_id=order))) == 1
    placed = PlaceOrder(order_id=order, currency="GBP", total_minor=100, coupon_ids=(held,))
    assert shard_of(PLACEMENT, envelope(placed)) == 0
    assert shard_of(PLACEMENT, envelope(placed, SMALL)) == 1


def test_a_template_without_an_id_lies_where_the_id_that_it_will_get_says() -> None:
    shards = {
        shard_of(PLACEMENT, CommandEnvelope(GIANT, f"id-{n}", CreateTemplate(terms=terms()), "t", "t"))
        for n in range(20)
    }
    assert shards == {0, 1}
    assert shard_of(PLACEMENT, envelope(CreateBudget(currency="GBP", limit_minor=1))) in {0, 1}


def test_what_cannot_be_placed_is_refused_and_says_what_is_missing() -> None:
    engines = OneShard(0), OneShard(1)
    answer = router(*engines).execute(envelope(ReportRefund(refund_id="r", amount_minor=1, currency="GBP")))
    assert (answer.status, answer.code) == ("refused", NOT_PLACEABLE)
    assert "order_id" in answer.detail
    apart = StartDistribution(distribution_id=keys_on(0, "d"), template_id=keys_on(1, "t"), users=1)
    assert "in braces" in router(*engines).execute(envelope(apart)).detail
    assert [engine.taken for engine in engines] == [[], []]


def test_a_clock_is_advanced_on_every_shard_of_its_realm() -> None:
    engines = OneShard(0), OneShard(1)
    assert router(*engines).execute(envelope(AdvanceClock(to=datetime(2026, 3, 1, tzinfo=UTC)))).accepted
    assert [len(engine.taken) for engine in engines] == [1, 1]


def test_a_full_shard_hinders_no_other() -> None:
    full, free = OneShard(0, is_full=True), OneShard(1)
    claims = [ClaimCoupon(template_id=keys_on(shard, "t"), user_id="ann") for shard in (0, 1)]
    busy, answered = router(full, free).submit_many([envelope(claim) for claim in claims])
    assert answered.result(1).position.shard == 1
    with pytest.raises(Busy):
        busy.result(1)
    with pytest.raises(Busy):
        router(full, free).submit_many([envelope(claims[0])])


def test_slots_are_all_used() -> None:
    assert {slot_of(f"key-{number}") for number in range(20 * SLOTS)} == set(range(SLOTS))
