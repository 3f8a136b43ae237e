"""The log on real PostgreSQL ends up in real Redis and real ClickHouse, once in effect."""

import psycopg

from contracts.position import Position
from infra import operations
from infra.cli.projections import lag_state
from infra.clickhouse.facts import FactsCheckpoint
from infra.redis.models import ModelStore
from infra.settings import Settings
from projections.catalog import READ_MODELS
from tests.engines import clickhouse
from tests.integration.projections.conftest import World
from tests.unit.projections.stories import everything


def test_every_event_arrives_in_every_model_and_every_fact_table(world: World) -> None:
    head = world.append(everything())
    world.catch_up()
    states = {state.name: state for state in world.service.states()}
    assert {name: state.offset for name, state in states.items()} == dict.fromkeys(states, head)
    assert {name: state.parked for name, state in states.items()} == dict.fromkeys(states, 0)
    with clickhouse(world.clickhouse_url) as client:
        print(client.query("SELECT * FROM coupon_funnel").result_rows)
        print(client.query("SELECT * FROM spend").result_rows)
        print(client.query("SELECT * FROM order_funnel").result_rows)
        print(client.query("SELECT * FROM breaks").result_rows)
    print(world.service.checksums())


def test_a_model_holds_what_its_own_fold_says(world: World) -> None:
    world.append(everything())
    world.catch_up()
    for model in READ_MODELS.values():
        assert ModelStore(world.service._redis, model).checksum(1).documents > 0, model.name


def test_a_store_that_is_away_is_named_and_hides_only_its_own_followers(world: World) -> None:
    world.append(everything())
    world.facts.save(FactsCheckpoint(1, Position(0, world.feed.epoch(), 1)))
    settings = Settings.load(
        postgres_dsn=world.postgres_dsn, redis_url="redis://127.0.0.1:1/0", clickhouse_url=world.clickhouse_url
    )
    standings = {each.name: each for each in operations.follower_standings(settings)}
    assert lag_state(standings["wallet"], 1_000).startswith("cannot be read: ")
    assert lag_state(standings["sagas"], 1_000) == "not begun"
    assert lag_state(standings["facts"], 1_000) == "ok"


def test_a_follower_that_cannot_pass_an_event_says_which(world: World) -> None:
    head = world.append(everything())
    with psycopg.connect(world.postgres_dsn, autocommit=True) as sql:
        sql.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state) "
            "SELECT 'a/b/novel/1', 1, 'novel.happened.v9', state FROM stored_events WHERE notification_id = %s",
            (head,),
        )
        world.facts.save(FactsCheckpoint(1, Position(0, world.feed.epoch(), head)))
        settings = Settings.load(
            postgres_dsn=world.postgres_dsn, redis_url=world.redis_url, clickhouse_url=world.clickhouse_url
        )
        standings = {each.name: each for each in operations.follower_standings(settings)}
    assert lag_state(standings["facts"], 1_000).startswith("halted: unknown event type 'novel.happened.v9'")
    assert lag_state(standings["wallet"], 1_000) == "not begun"
