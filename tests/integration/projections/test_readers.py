"""Readers show whole models of the caller's realm, page by page, and say when there is nothing whole to show."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
import redis.asyncio

from contracts.envelope import Recorded
from contracts.events import CheckoutReady, ClockAdvanced, Event, TemplateCreated
from contracts.identity import Realm
from contracts.read_models import bucket_key
from query.ports import BadCursor, BadFilter, Page, ReadModelUnavailable
from query.readers.models import RedisReadModels
from query.readers.reports import ClickHouseReports
from tests.integration.projections.conftest import World
from tests.unit.projections.stories import ACME, NOON, Story, about, claimed, everything, locked, placed, terms

OTHER = Realm("acme", "shop:1")


@pytest.fixture
async def models(world: World) -> AsyncIterator[RedisReadModels]:
    client = redis.asyncio.Redis.from_url(world.redis_url)
    yield RedisReadModels(client, wall_clock=lambda: NOON)
    await client.aclose()


@pytest.fixture
def reports(world: World) -> Iterator[ClickHouseReports]:
    reports = ClickHouseReports(world.clickhouse_url)
    yield reports
    reports.close()


async def pages(ask: object, limit: int) -> list[Page]:
    found: list[Page] = []
    cursor: str | None = None
    while True:
        page = await ask(cursor=cursor, limit=limit)  # type: ignore[operator]
        found.append(page)
        assert len(page.items) <= limit
        if (cursor := page.next_cursor) is None:
            return found


async def test_an_order_tells_its_whole_story(world: World, models: RedisReadModels) -> None:
    world.append(everything())
    world.catch_up()
    order = await models.order(ACME, "o1")
    assert order is not None
    assert order["order"]["total_minor"] == 6_250
    assert order["checkout"]["status"] == "refunded"
    assert order["checkout"]["refunds"]["f2"]["returned_coupon_ids"] == ["c1"]
    assert order["payments"]["p1"] == {
        "status": "succeeded",
        "amount_minor": 5_250,
        "currency": "GBP",
        "at": "2026-03-31T12:00:37.000000Z",
    }
    assert order["settlement"] == {"recorded_minor": 1_000, "reversed_minor": 1_000}
    assert order["saga"]["step"] == "completed"
    assert order["saga"]["why"][0]["sent"] == [{"command": "hold_for_order", "command_id": "saga:e1:hold_for_order"}]


async def test_templates_coupons_and_budgets_are_shown_as_they_stand(world: World, models: RedisReadModels) -> None:
    head = world.append(everything())
    world.catch_up()
    assert (await models.position()).offset == head
    template = await models.template(ACME, "t1")
    assert template is not None
    shown = {name: template[name] for name in ("status", "stock", "claimed", "reserved", "remaining", "terms_version")}
    assert shown == {
        "status": "active",
        "stock": 1_500,
        "claimed": 7,
        "reserved": 0,
        "remaining": 1_493,
        "terms_version": 2,
    }
    endless = await models.template(ACME, "t2")
    assert endless is not None
    assert (endless["status"], endless["stock"], endless["remaining"]) == ("ended", None, None)
    coupon = await models.coupon(ACME, "c1")
    assert coupon is not None
    assert (coupon["status"], coupon["returned_by"], coupon["order_id"]) == ("claimed", "f2", None)
    assert coupon["stream"] == "acme/shop/coupon/c1"
    budget = await models.budget(ACME, "b1")
    assert budget is not None
    assert budget["periods"][""] == {
        "limit_minor": 15_000,
        "reserved_minor": 0,
        "committed_minor": 1_000,
        "credited_minor": 833,
        "available_minor": 14_833,
        "thresholds_percent": [],
    }
    assert await models.coupon(ACME, "nobody") is None


@dataclass
class WallClock:
    """A wall clock that stands still until it is set."""

    shows: datetime = NOON

    def __call__(self) -> datetime:
        return self.shows


READY = CheckoutReady(
    order_id="o1",
    attempt=1,
    user_id="u1",
    currency="GBP",
    total_minor=6_250,
    shipping_minor=250,
    discount_minor=1_000,
    payable_minor=5_250,
    lines=(),
    coupons=(),
    lock_until=NOON + timedelta(minutes=15),
)


def held(realm: Realm, *more: tuple[str, str, Event]) -> list[Recorded]:
    """A coupon that an order holds for a quarter of an hour, of a day's validity, and what is told after that."""
    story = Story(realm)
    story.tell("order", "o1", placed("o1", "u1", ["c1"]))
    story.tell("coupon", "c1", claimed("c1", about()))
    story.tell("checkout", "o1", READY)
    story.tell("coupon", "c1", locked("c1", about(), "o1"))
    for kind, key, event in more:
        story.tell(kind, key, event)
    return story.log


async def stands(models: RedisReadModels, realm: Realm) -> tuple[str, str, str, str | None]:
    """Status of the coupon, by itself and in its user's wallet; status and cause of the order's checkout."""
    coupon, order = await models.coupon(realm, "c1"), await models.order(realm, "o1")
    (in_wallet,) = (await models.user_coupons(realm, "u1", cursor=None, limit=9)).items
    assert coupon is not None
    assert order is not None
    assert in_wallet == coupon
    assert (coupon["lock_until"] is None) == (coupon["order_id"] is None) == (coupon["status"] != "locked")
    return coupon["status"], order["checkout"]["status"], order["order"]["status"], order["checkout"].get("cause")


async def test_a_lock_ends_for_readers_at_its_instant_whether_a_timer_has_recorded_it_or_not(world: World) -> None:
    world.append(held(ACME))
    world.catch_up()
    clock = WallClock()
    async with redis.asyncio.Redis.from_url(world.redis_url) as client:
        models = RedisReadModels(client, wall_clock=clock)
        clock.shows = NOON + timedelta(minutes=15, microseconds=-1)
        assert await stands(models, ACME) == ("locked", "ready", "placed", None)
        clock.shows = NOON + timedelta(minutes=15)
        assert await stands(models, ACME) == ("claimed", "released", "placed", "lock_ended")
        clock.shows = NOON + timedelta(days=1)
        assert await stands(models, ACME) == ("expired", "released", "placed", "lock_ended")


async def test_a_realm_on_a_business_clock_is_read_by_that_clock(world: World) -> None:
    later = ClockAdvanced(to=NOON + timedelta(minutes=20))
    world.append(held(ACME, ("clock", "main", later)))
    world.append(held(OTHER, ("clock", "main", ClockAdvanced(to=NOON + timedelta(minutes=1)))))
    world.catch_up()
    async with redis.asyncio.Redis.from_url(world.redis_url) as client:
        for shows in (NOON, NOON + timedelta(days=400)):
            models = RedisReadModels(client, wall_clock=WallClock(shows))
            assert (await stands(models, ACME))[:2] == ("claimed", "released")
            assert (await stands(models, OTHER))[:2] == ("locked", "ready")


async def test_pages_show_every_coupon_once_latest_first(world: World, models: RedisReadModels) -> None:
    story = Story()
    for nth in range(1, 26):
        story.tell("coupon", f"c{nth}", claimed(f"c{nth}", about(), nth))
    world.append(story.log)
    world.catch_up()
    found = await pages(lambda **page: models.user_coupons(ACME, "u1", **page), 10)
    assert [len(page.items) for page in found] == [10, 10, 5]
    assert [item["coupon_id"] for page in found for item in page.items] == [f"c{nth}" for nth in range(25, 0, -1)]


async def test_a_cursor_of_another_list_is_refused(world: World, models: RedisReadModels) -> None:
    story = Story()
    for nth in range(1, 4):
        story.tell("coupon", f"c{nth}", claimed(f"c{nth}", about(), nth))
        story.tell("template", f"t{nth}", TemplateCreated(template_id=f"t{nth}", terms=terms()))
    world.append(story.log)
    world.catch_up()
    cursor = (await models.templates(ACME, cursor=None, limit=1)).next_cursor
    assert cursor is not None
    for wrong in (cursor, "nonsense", "bm9uc2Vuc2U", "", cursor + "x"):
        with pytest.raises(BadCursor):
            await models.user_coupons(ACME, "u1", cursor=wrong, limit=1)


async def test_nothing_of_another_realm_is_shown(
    world: World, models: RedisReadModels, reports: ClickHouseReports
) -> None:
    world.append(everything())
    world.append(everything(OTHER))
    world.catch_up()
    stranger = Realm("acme/shop", "")
    assert await models.coupon(stranger, "c1") is None
    assert (await models.user_coupons(stranger, "u1", cursor=None, limit=10)).items == ()
    assert (await models.templates(stranger, cursor=None, limit=10)).items == ()
    assert (await reports.funnel(stranger, {}, cursor=None, limit=10)).items == []
    assert await reports.a_break(stranger, "k1") is None
    for realm in (ACME, OTHER):  # The same tenant, another app.
        funnel = (await reports.funnel(realm, {}, cursor=None, limit=10)).items
        assert [(row["template_id"], row["claimed"]) for row in funnel] == [("t1", 7), ("t2", 0)]
        spend = (await reports.spend(realm, {}, cursor=None, limit=10)).items
        assert [row["redeemed_minor"] for row in spend] == [1_000]
        assert len((await reports.breaks(realm, {}, cursor=None, limit=10)).items) == 2
    own = await models.coupon(OTHER, "c1")
    assert own is not None
    assert own["stream"] == "acme/shop:1/coupon/c1"
    assert len((await models.user_coupons(OTHER, "u1", cursor=None, limit=10)).items) == 2


async def test_a_model_that_was_never_built_is_unavailable_not_empty(
    world: World, models: RedisReadModels, reports: ClickHouseReports
) -> None:
    with pytest.raises(ReadModelUnavailable, match="not built"):
        await models.coupon(ACME, "c1")
    with pytest.raises(ReadModelUnavailable, match="not built"):
        await models.position()
    with pytest.raises(ReadModelUnavailable, match="did not answer"):
        await reports.position()
    world.facts.migrate()
    with pytest.raises(ReadModelUnavailable, match="not built"):
        await reports.position()


async def test_a_reader_that_remembers_an_old_version_finds_the_new_one(world: World, models: RedisReadModels) -> None:
    world.append(everything())
    world.catch_up()
    before = await models.user_coupons(ACME, "u1", cursor=None, limit=1)
    coupon = await models.coupon(ACME, "c1")
    for name in ("wallet", "coupon"):
        world.service.rebuild(name)
        world.service.drop(name)
    assert await models.coupon(ACME, "c1") == coupon
    assert (await models.user_coupons(ACME, "u1", cursor=None, limit=1)).items == before.items
    rest = await models.user_coupons(ACME, "u1", cursor=before.next_cursor, limit=5)
    assert [item["coupon_id"] for item in rest.items] == ["c1"]


async def test_a_bucket_without_a_position_is_not_trusted(world: World, models: RedisReadModels) -> None:
    world.append(everything())
    world.catch_up()
    client = redis.asyncio.Redis.from_url(world.redis_url)
    await client.hdel(bucket_key("coupon", 1, ACME, "c1"), "_pos")
    await client.aclose()
    with pytest.raises(ReadModelUnavailable, match="rebuild coupon"):
        await models.coupon(ACME, "c1")
    assert await models.coupon(ACME, "c2") is not None


async def test_an_engine_that_is_away_is_unavailable_not_a_crash() -> None:
    client = redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0")
    with pytest.raises(ReadModelUnavailable):
        await RedisReadModels(client, wall_clock=lambda: NOON).coupon(ACME, "c1")
    await client.aclose()
    with pytest.raises(ReadModelUnavailable):
        await ClickHouseReports("http://127.0.0.1:1/tessera").position()


async def test_reports_add_up_and_page(world: World, reports: ClickHouseReports) -> None:
    head = world.append(everything())
    world.catch_up()
    assert (await reports.position()).offset == head
    first, second = (await pages(lambda **page: reports.funnel(ACME, {}, **page), 1))[:2]
    assert first.items[0]["template_id"] == "t1"
    assert first.items[0]["refused_by_code"] == {"paused": 2, "user_limit_reached": 7}
    assert second.items[0]["template_id"] == "t2"
    assert second.items[0]["stock"] is None
    spend = (await reports.spend(ACME, {"currency": "GBP"}, cursor=None, limit=10)).items
    assert spend == [
        {
            "campaign_id": "spring",
            "template_id": "t1",
            "currency": "GBP",
            "redeemed_minor": 1_000,
            "reversed_minor": 1_000,
            "net_minor": 0,
            "external_minor": 350,
        }
    ]


async def test_reports_of_some_days_leave_out_the_others(world: World, reports: ClickHouseReports) -> None:
    world.append(everything())
    world.catch_up()
    april = {"from": "2026-04-01"}
    funnel = {row["template_id"]: row for row in (await reports.funnel(ACME, april, cursor=None, limit=10)).items}
    assert (funnel["t1"]["claimed"], funnel["t1"]["returned"], funnel["t1"]["refused"]) == (0, 1, 0)
    march = {"until": "2026-04-01"}
    funnel = {row["template_id"]: row for row in (await reports.funnel(ACME, march, cursor=None, limit=10)).items}
    assert (funnel["t1"]["claimed"], funnel["t1"]["returned"], funnel["t1"]["refused"]) == (7, 0, 9)
    (spend,) = (await reports.spend(ACME, march, cursor=None, limit=10)).items
    assert (spend["redeemed_minor"], spend["reversed_minor"]) == (1_000, 833)
    with pytest.raises(BadFilter):
        await reports.spend(ACME, {"from": "yesterday"}, cursor=None, limit=10)
    with pytest.raises(BadFilter):
        await reports.spend(ACME, {"from": "0001-01-01"}, cursor=None, limit=10)


async def test_breaks_are_listed_oldest_first_and_told_apart(world: World, reports: ClickHouseReports) -> None:
    world.append(everything())
    world.catch_up()
    found = await pages(lambda **page: reports.breaks(ACME, {}, **page), 1)
    assert [item["break_id"] for page in found for item in page.items] == ["k1", "k2"]
    (still_open,) = (await reports.breaks(ACME, {"status": "open"}, cursor=None, limit=10)).items
    assert still_open["break_id"] == "k1"
    closed = await reports.a_break(ACME, "k2")
    assert closed is not None
    assert (closed["status"], closed["reason"], closed["kind"]) == ("closed", "it was released", "lock_leaked")
    assert closed["event_ids"] == ["e1", "e2"]
