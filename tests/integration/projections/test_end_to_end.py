"""The log on real PostgreSQL ends up in real Redis and real ClickHouse, once in effect."""

from infra.redis.models import ModelStore
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
