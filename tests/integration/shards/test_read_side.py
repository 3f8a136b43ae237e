"""What is read of two shards: each shard's models by themselves, and all of them as one."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from contracts.position import Position
from infra.bootstrap import stores
from infra.clickhouse import merged
from infra.clickhouse.connection import connect
from infra.projections.service import ProjectionService
from tests.engines import Corners
from tests.integration.http.test_serving import active_template
from tests.integration.shards.readside import ReadWorld, read_world
from tests.integration.shards.test_api import claimed
from tests.integration.shards.world import ON_0, ON_1

APPS = itertools.count(1)
CLAIMED = "SELECT count() FROM coupon_facts FINAL WHERE kind = 'claimed' AND app_id = '{app}'"


@pytest.fixture(scope="module")
def world(corners: Corners) -> Iterator[ReadWorld]:
    """One for all tests here: each has an app of its own."""
    with read_world(corners, min_position_wait_ms=0) as world:
        yield world


@pytest.fixture
def app() -> str:
    """An app that no other test uses."""
    return f"shop{next(APPS)}"


@pytest.fixture
async def giant(world: ReadWorld, app: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the tenant that is spread, with a template on each shard."""
    async with world.caller("giant", app) as client:
        for tag in (ON_0, ON_1):
            await active_template(client, f"{tag}-ten-off", claims_per_user_max=10)
        yield client


async def paged(client: httpx.AsyncClient, path: str, key: str, limit: int) -> list[list[str]]:
    """What each page of a list holds."""
    pages: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        shown = await client.get(path, params={"limit": limit, **({"cursor": cursor} if cursor else {})})
        assert shown.status_code == 200, shown.text
        pages.append([item[key] for item in shown.json()["items"]])
        cursor = shown.json()["next_cursor"]
    return pages


async def test_each_shards_models_and_facts_hold_its_own_events_only(
    world: ReadWorld, giant: httpx.AsyncClient, app: str
) -> None:
    await claimed(giant, f"{ON_0}-ten-off")
    await claimed(giant, f"{ON_1}-ten-off", user="u2")
    await claimed(giant, f"{ON_1}-ten-off", user="u3")
    world.catch_up()
    assert [world.facts(CLAIMED.format(app=app), shard)[0][0] for shard in (0, 1)] == [1, 2]
    assert world.facts(CLAIMED.format(app=app)) == [(3,)]


async def test_a_spread_wallet_shows_the_coupons_of_both_shards_the_latest_claim_first(
    world: ReadWorld, giant: httpx.AsyncClient
) -> None:
    answers = [await claimed(giant, f"{tag}-ten-off") for tag in (ON_1, ON_0, ON_0, ON_1, ON_0)]
    coupons = [answer["data"]["coupon_id"] for answer in answers]
    world.catch_up()
    for limit in (1, 2, 3, 5, 6):
        pages = await paged(giant, "/v1/users/u1/coupons", "coupon_id", limit)
        assert [coupon for page in pages for coupon in page] == coupons[::-1], limit
        assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    for coupon in coupons:
        shown = await giant.get(f"/v1/coupons/{coupon}")
        assert (shown.status_code, shown.json()["data"]["coupon_id"]) == (200, coupon)


async def test_what_is_claimed_between_two_pages_neither_repeats_a_row_nor_hides_one(
    world: ReadWorld, giant: httpx.AsyncClient
) -> None:
    before = [(await claimed(giant, f"{tag}-ten-off"))["data"]["coupon_id"] for tag in (ON_1, ON_1, ON_0, ON_0)]
    world.catch_up()
    first = (await giant.get("/v1/users/u1/coupons", params={"limit": 2})).json()
    for tag in (ON_1, ON_0):
        await claimed(giant, f"{tag}-ten-off")
    world.catch_up()
    second = (await giant.get("/v1/users/u1/coupons", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    seen = [item["coupon_id"] for item in (*first["items"], *second["items"])]
    assert (seen, second["next_cursor"]) == (before[::-1], None)


async def test_templates_of_both_shards_are_one_list(world: ReadWorld, giant: httpx.AsyncClient) -> None:
    world.catch_up()
    assert await paged(giant, "/v1/templates", "template_id", 1) == [[f"{ON_1}-ten-off"], [f"{ON_0}-ten-off"]]
    for tag in (ON_0, ON_1):
        shown = await giant.get(f"/v1/templates/{quote(f'{tag}-ten-off', safe='')}")
        assert shown.json()["data"]["template_id"] == f"{tag}-ten-off"


async def test_a_cursor_of_another_list_or_of_nobody_is_refused(world: ReadWorld, giant: httpx.AsyncClient) -> None:
    for tag in (ON_0, ON_1):
        await claimed(giant, f"{tag}-ten-off")
    world.catch_up()
    page = (await giant.get("/v1/users/u1/coupons", params={"limit": 1})).json()
    for path, cursor in (("/v1/users/u2/coupons", page["next_cursor"]), ("/v1/users/u1/coupons", "nobodys")):
        refused = await giant.get(path, params={"cursor": cursor})
        assert (refused.status_code, refused.json()["code"]) == (422, "malformed_cursor")


async def test_a_read_waits_for_the_shard_of_its_position_only(world: ReadWorld, giant: httpx.AsyncClient) -> None:
    world.catch_up()
    here, there = [(await claimed(giant, f"{tag}-ten-off"))["position"] for tag in (ON_0, ON_1)]
    world.catch_up(1)
    for path in ("/v1/users/u1/coupons", "/v1/reports/funnel"):
        waited = {
            shard: await giant.get(path, params={"min_position": token}) for shard, token in enumerate((here, there))
        }
        assert [answer.status_code for answer in waited.values()] == [503, 200]
        assert waited[0].json()["code"] == "position_not_reached"
        assert [Position.parse(answer.json()["position"]).shard for answer in waited.values()] == [0, 1]
    world.catch_up(0)
    assert (await giant.get("/v1/users/u1/coupons", params={"min_position": here})).status_code == 200


async def test_reports_add_up_over_both_shards(world: ReadWorld, giant: httpx.AsyncClient) -> None:
    for tag, user in ((ON_0, "u1"), (ON_1, "u1"), (ON_1, "u2")):
        await claimed(giant, f"{tag}-ten-off", user=user)
    world.catch_up()
    funnel = (await giant.get("/v1/reports/funnel")).json()["items"]
    assert {row["template_id"]: row["claimed"] for row in funnel} == {f"{ON_0}-ten-off": 1, f"{ON_1}-ten-off": 2}


async def test_a_fact_that_is_delivered_twice_counts_once_over_all_shards(
    world: ReadWorld, giant: httpx.AsyncClient, app: str
) -> None:
    await claimed(giant, f"{ON_1}-ten-off")
    world.catch_up()
    again = f"INSERT INTO coupon_facts SELECT * FROM coupon_facts WHERE app_id = '{app}'"
    world.facts(again, 1)
    assert world.facts(CLAIMED.format(app=app)) == [(1,)]


async def test_rebuilding_one_shard_changes_nothing_there_and_leaves_the_other_alone(
    world: ReadWorld, giant: httpx.AsyncClient, app: str
) -> None:
    for tag in (ON_0, ON_1):
        await claimed(giant, f"{tag}-ten-off")
    world.catch_up()
    with world.projections(0) as zero, world.projections(1) as one:
        left, before = (zero.states(), zero.checksums()), one.checksums()
        assert all(before.values())
        assert zero.checksums()["wallet"] != before["wallet"]
        for name in before:
            assert one.rebuild(name).changed is False
        assert one.checksums() == before
        assert (zero.states(), zero.checksums()) == left
        shadows = "SELECT count() FROM system.databases WHERE startsWith(name, currentDatabase())"
        shown = (await giant.get("/v1/users/u1/coupons")).json()["items"]
        assert (len(shown), world.facts(CLAIMED.format(app=app))) == (2, [(2,)])  # Shadows are not read.
        assert world.facts(shadows, 1) == [(2,)]
        for name in before:
            assert one.drop(name) == 1


async def test_all_facts_stay_whole_while_those_of_one_shard_are_rebuilt(
    world: ReadWorld, giant: httpx.AsyncClient
) -> None:
    for tag in (ON_0, ON_1):
        await claimed(giant, f"{tag}-ten-off")
    world.catch_up()
    before = (await giant.get("/v1/reports/funnel")).json()["items"]
    with world.projections(1) as one:
        rebuilding = asyncio.create_task(asyncio.to_thread(rebuilt_and_dropped, one))
        shown = [before]
        while not rebuilding.done():
            shown.append((await giant.get("/v1/reports/funnel")).json().get("items"))
        await rebuilding
    assert len(before) == 2
    assert [items for items in shown if items != before] == []


def rebuilt_and_dropped(service: ProjectionService) -> None:
    """The facts, a few times."""
    for _ in range(3):
        service.rebuild("facts")
        service.drop("facts")


async def test_a_tenant_of_one_shard_is_read_there(world: ReadWorld, app: str) -> None:
    async with world.caller("one", app) as client:
        await active_template(client, "t1", claims_per_user_max=3)
        coupons = [(await claimed(client, "t1"))["data"]["coupon_id"] for _ in range(3)]
        world.catch_up()
        assert await paged(client, "/v1/users/u1/coupons", "coupon_id", 2) == [coupons[:0:-1], coupons[:1]]
        assert (await client.get("/v1/templates/t1")).json()["data"]["claimed"] == 3


async def test_migrating_again_does_nothing(world: ReadWorld) -> None:
    assert set(itertools.chain(*stores.migrate(world.settings).values())) == set()


async def test_migrating_brings_back_what_somebody_dropped_of_all_facts(world: ReadWorld) -> None:
    world.facts("DROP VIEW coupon_funnel")
    world.facts("DROP TABLE coupon_facts SYNC")
    applied = {store: names for store, names in stores.migrate(world.settings).items() if names}
    assert applied == {"clickhouse of all shards": ["0001_facts", "0003_views"]}
    assert world.facts("SELECT count() FROM coupon_funnel WHERE tenant_id = 'nobody'") == [(0,)]


async def test_facts_of_a_shard_that_is_added_have_to_be_migrated_to_be_read(world: ReadWorld) -> None:
    known = stores.facts_databases(world.settings)
    with closing(connect(world.settings.all_facts_url)) as client:
        assert merged.pending(client, known) == []
        assert merged.pending(client, [*known, "another"]) == merged.pending(client, known[:1]) != []


async def test_readiness_names_what_is_not_built_of_which_shard(corners: Corners) -> None:
    with read_world(corners) as world:
        world.catch_up(0)
        async with httpx.AsyncClient(base_url=world.url) as client:
            parts: dict[str, Any] = (await client.get("/health/ready")).json()["parts"]
        behind = [name for name, part in parts.items() if not part["ready"]]
        assert behind == ["read_models_1", "facts_1"]


async def test_models_that_are_not_built_keep_nobody_from_those_of_another_shard(corners: Corners) -> None:
    with read_world(corners) as world:
        async with world.caller("zero") as zero, world.caller("one") as one, world.caller("giant") as giant:
            for client in (zero, one):
                await active_template(client, "t1")
            await active_template(giant, f"{ON_0}-ten-off")
            world.catch_up(0)
            here = f"/v1/templates/{quote(f'{ON_0}-ten-off', safe='')}"
            answers = [
                await client.get(path)
                for client, path in ((zero, "/v1/templates"), (giant, here), (giant, "/v1/templates"), (one, here))
            ]
    assert [answer.status_code for answer in answers] == [200, 200, 503, 503]
    assert {answer.json()["code"] for answer in answers[2:]} == {"read_model_unavailable"}
