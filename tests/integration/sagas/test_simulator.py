"""The simulated order system against the promotion side: every scenario ends where it says, with and without HTTP."""

from datetime import timedelta

import httpx
import pytest

from contracts.commands import QuoteOrder
from infra.bootstrap.stores import write_side
from infra.sagas.worker import SagaWorker
from infra.simulator.http import HttpUpstream, UpstreamFailed
from infra.simulator.play import Play, Question, Told
from infra.simulator.scenarios import Pass, Scenario, catalogue, draw
from tests.integration.http.conftest import ACME, api
from tests.integration.sagas.test_worker import wait_for
from tests.integration.sagas.world import LOCK_SECONDS, NOON, Store, World

SCENARIOS = catalogue(LOCK_SECONDS)
ORDERS = 60


def drive(world: World, play: Play, *, settling: bool) -> None:
    """Play one order through the engine; ``settling``: the sagas keep up with every move, else they come last."""
    moves, answer = play.moves(), None
    while True:
        try:
            move = moves.send(answer)
        except StopIteration:
            return
        answer = None
        match move:
            case Told():
                world.tell(move.command, command_id=move.command_id)
            case Pass():
                world.later(seconds=move.seconds)
            case Question.QUOTE:
                fields = play.placing.model_dump(include={"user_id", "currency", "coupon_ids"})
                answer = world.do(QuoteOrder(**fields, lines=play.placing.lines)).data["payable_minor"]
            case Question.PAYABLE:
                world.settle()
                ready = world.rows(
                    "SELECT data FROM events WHERE type = 'checkout.ready.v1' AND tenant_id = %s AND key = %s"
                    " ORDER BY version DESC LIMIT 1",
                    world.realm.tenant_id,
                    play.order_id,
                )
                answer = ready[0]["data"]["payable_minor"] if ready else play.total_minor
        if settling:
            world.settle()


@pytest.mark.parametrize("settling", [True, False], ids=["sagas_keep_up", "sagas_come_last"])
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_every_scenario_ends_where_it_says(world: World, scenario: Scenario, *, settling: bool) -> None:
    world.template().claim()
    drive(world, Play(world.placing("o"), scenario), settling=settling)
    world.settle().later(seconds=LOCK_SECONDS).settle()  # Who comes last also begins the lock late.
    assert world.step("o") == scenario.ends_in
    assert world.owed() == []


async def test_a_seeded_day_over_http_ends_as_its_scenarios_say(postgres_dsn: str) -> None:
    drawn = draw(7, ORDERS, list(SCENARIOS.values()))
    with api(postgres_dsn) as server, write_side(server.settings) as side:
        store = Store(postgres_dsn)
        world = World(store)
        world.realm = ACME
        world.later(seconds=1).template()
        for number in range(ORDERS):
            world.claim(f"c{number}", user=f"u{number}")
        plays = [
            Play(world.placing(f"o{number}", f"c{number}", user=f"u{number}"), scenario)
            for number, scenario in enumerate(drawn)
        ]
        worker = SagaWorker(postgres_dsn, side.log, side.engine)
        worker.start()
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=60) as client:

            async def pass_time(seconds: int) -> None:
                world.now += timedelta(seconds=seconds)
                body = {"to": world.now.isoformat().replace("+00:00", "Z")}
                assert (await client.post("/v1/clock", json=body)).is_success

            await HttpUpstream(client).play_all(plays, pass_time)
        expected = {play.order_id: play.scenario.ends_in for play in plays}
        wait_for(lambda: _steps(world) == expected)
        assert worker.stop()
        assert world.owed() == []
        assert world.now == NOON + timedelta(seconds=1 + LOCK_SECONDS)
        world.close()
        store.close()


async def test_an_order_system_that_is_refused_says_what_it_was_told(postgres_dsn: str) -> None:
    with api(postgres_dsn) as server:
        async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": "Bearer nonsense"}) as client:
            store = Store(postgres_dsn)
            world = World(store).template().claim()
            play = Play(world.placing("o"), SCENARIOS["pays"])

            async def no_time(seconds: int) -> None:
                raise AssertionError("time must not pass")

            with pytest.raises(UpstreamFailed, match="401"):
                await HttpUpstream(client).play_all([play], no_time)
            world.close()
            store.close()


def _steps(world: World) -> dict[str, str]:
    found = world.rows("SELECT key, step FROM sagas WHERE tenant_id = %s", world.realm.tenant_id)
    return {row["key"]: row["step"] for row in found}
