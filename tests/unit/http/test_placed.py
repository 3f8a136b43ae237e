"""Questions that are asked of several shards."""

from command.engine import Engine
from command.ports import CommandKey
from contracts.commands import CreateBudget
from contracts.envelope import CommandEnvelope
from contracts.identity import Realm
from contracts.placement import Placement
from infra.http.placed import logged_answers
from infra.shards.router import Router
from tests.fakes import InMemoryEventLog
from tests.unit.http.conftest import handlers

PLACEMENT = Placement.of((0, 1), tenants={"one": 1}, spread={"giant": {0: "0-511", 1: "512-1023"}})
ONE, GIANT = Realm("one", "shop"), Realm("giant", "shop")


def test_an_answer_is_found_on_whichever_shard_of_its_realm_it_lies() -> None:
    logs = {shard: InMemoryEventLog(shard=shard) for shard in (0, 1)}
    engines = {shard: Engine(log, handlers()) for shard, log in logs.items()}
    router = Router(engines, {}, PLACEMENT)
    for engine in engines.values():
        engine.start()
    shards = set()
    for realm, budgets in ((GIANT, 40), (ONE, 1)):
        for number in range(budgets):
            command = CreateBudget(budget_id=f"b{number}", currency="EUR", limit_minor=1)
            envelope = CommandEnvelope(realm, f"k{number}", command, "key:test", "r")
            shards.add((realm, router.execute(envelope).position.shard))
    for engine in engines.values():
        engine.stop()
    assert shards == {(GIANT, 0), (GIANT, 1), (ONE, 1)}
    told = [*(CommandKey(GIANT, f"k{number}") for number in range(40)), CommandKey(ONE, "k0")]
    assert set(logged_answers(PLACEMENT, logs, [*told, CommandKey(ONE, "k1")])) == set(told)
