"""A giant tenant on two shards, each a database with its own engine and saga process, played by hand."""

from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from command.engine import Engine, EngineSettings
from command.handlers import HANDLERS, KINDS
from command.handlers.crossing import handlers_at
from command.ports import StoreUnavailable
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.placement import Placement
from contracts.position import Position
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.sagas.checkpoints import Checkpoint
from infra.sagas.dispatcher import Dispatcher
from infra.sagas.runner import SagaRunner
from infra.sagas.sending import Submits
from infra.sagas.settings import SagaSettings
from infra.sagas.timer_service import TimerService
from infra.shards.router import Router, shard_of
from infra.verify import Report, Verifier, verify_several
from tests.integration.sagas.world import LOCK_SECONDS, Died, Store, World

PLACEMENT = Placement.of((0, 1), tenants={"zero": 0, "one": 1}, spread={"giant": {0: "0-511", 1: "512-1023"}})
GIANT = Realm("giant", "shop")


def tag_on(shard: int) -> str:
    """A part in braces that puts what it names on a shard of the giant."""
    names = (f"t{number}" for number in range(100))
    return next(f"{{{name}}}" for name in names if PLACEMENT.shard_of(GIANT, name) == shard)


ROUNDS_MAX = 200

# What is named so lies on shard 0, or on shard 1: {t0}-order, {t5}-ten-off.
ON_0, ON_1 = tag_on(0), tag_on(1)


class ShardStore(Store):
    """One of the two databases, with the engine that decides there."""

    def __init__(self, dsn: str, shard: int) -> None:
        self.dsn = dsn
        self.shard = shard
        self.log = PostgresEventLog(dsn, shard=shard)
        handlers = handlers_at(shard, PLACEMENT, HANDLERS)
        self.engine = Engine(self.log, handlers, EngineSettings(lock_ttl_seconds=LOCK_SECONDS))
        self.engine.start()
        self.feed = StoreFeed(dsn, shard=shard)
        self.connection = psycopg.connect(dsn, row_factory=dict_row, autocommit=True)


class TwoStores(Store):
    """Both, behind one router."""

    def __init__(self, *dsns: str) -> None:
        self.shards = [ShardStore(dsn, shard) for shard, dsn in enumerate(dsns)]
        positions = {store.shard: Position(store.shard, store.log.epoch, 0) for store in self.shards}
        self.router = Router({store.shard: store.engine for store in self.shards}, positions, PLACEMENT)
        self.engine: Any = self.router
        self._realms = 0

    def close(self) -> None:
        for store in self.shards:
            store.close()

    def realm(self) -> Realm:
        self._realms += 1
        return Realm("giant", f"shop{self._realms}")


class ShardParts:
    """The saga process of one shard."""

    def __init__(self, store: ShardStore, router: Submits, settings: SagaSettings, checkpoint: Checkpoint) -> None:
        self.shard = store.shard
        self.runner = SagaRunner(store.sagas(), store.feed, settings, checkpoint=checkpoint)
        self.dispatcher = Dispatcher(store.sagas(), store.engine, settings, checkpoint=checkpoint)
        self.courier = Dispatcher(store.sagas(), router, settings, checkpoint=checkpoint, letters=True)
        self.timers = TimerService(store.sagas(), store.engine, settings, checkpoint=checkpoint)

    def run_once(self) -> int:
        return sum(each.run_once() for each in (self.runner, self.dispatcher, self.courier, self.timers))

    def close(self) -> None:
        for each in (self.runner, self.dispatcher, self.courier, self.timers):
            each.close()


@dataclass
class GiantWorld(World):
    """A giant's realm. ``away``: shards that nobody reaches just now, nor do they work."""

    away: set[int] = field(default_factory=set)
    order: tuple[int, ...] = (0, 1)  # Whose process gets on first, round by round.

    def _new_parts(self) -> Any:
        return self

    def __post_init__(self) -> None:
        self._processes = {store.shard: self._process(store.shard) for store in self._stores}
        super().__post_init__()

    @property
    def _stores(self) -> list[ShardStore]:
        two: Any = self.store
        return list(two.shards)

    def _process(self, shard: int) -> ShardParts:
        two: Any = self.store
        return ShardParts(
            self._stores[shard], self.wrap(Reaching(two.router, self.away)), self.settings, self.checkpoint
        )

    def run_once(self) -> int:
        """One step of every saga process; one that dies is replaced, and the other goes on as it was."""
        handled = 0
        for shard in self.order:
            if shard in self.away:
                continue
            try:
                handled += self._processes[shard].run_once()
            except Died:
                self.deaths += 1
                handled += 1
                self._processes[shard].close()
                self._processes[shard] = self._process(shard)
        return handled

    def settle(self) -> Self:
        """As ever; while a shard is away, letters to it wait."""
        for _ in range(ROUNDS_MAX):
            before = self._recorded()
            handled = self.run_once()
            if handled == 0 or (self.away and self._recorded() == before):
                return self
        raise AssertionError("not quiet")

    def _recorded(self) -> int:
        return sum(row["n"] for row in self.rows("SELECT count(*) AS n FROM stored_events"))

    def replace_process(self) -> None:
        for shard, process in self._processes.items():
            process.close()
            self._processes[shard] = self._process(shard)

    def close(self) -> None:
        for process in self._processes.values():
            process.close()

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """From both databases, the lower shard's first."""
        return [row for store in self._stores for row in store.connection.execute(query.encode(), values).fetchall()]

    def rows_of(self, shard: int, query: str, *values: object) -> list[dict[str, Any]]:
        return self._stores[shard].connection.execute(query.encode(), values).fetchall()

    def cast(self) -> Self:
        """A template of 10.00 off on each shard, each with a pot of 30.00, and a coupon of each for ann: c0, c1."""
        for tag, label in ((ON_0, "c0"), (ON_1, "c1")):
            self.budget(3_000, f"{tag}-pot")
            self.template(f"{tag}-ten-off", budget_ids=(f"{tag}-pot",))
            self.claim(label, template=f"{tag}-ten-off")
        return self

    def refusals(self, order: str) -> list[tuple[str | None, str]]:
        """Of a refused order: which coupon (by its label), and why."""
        labels = {coupon_id: label for label, coupon_id in self.coupons.items()}
        told = self.events("checkout", order)[-1]["data"]["refusals"]
        return [(labels.get(each["coupon_id"], each["coupon_id"]), each["code"]) for each in told]

    def ends(self, order: str) -> tuple[str | None, str, str]:
        """The order's step, and what happened last to both coupons."""
        return self.step(order), self.coupon("c0"), self.coupon("c1")

    def pots(self) -> list[dict[str, int]]:
        return [self.pot(f"{tag}-pot") for tag in (ON_0, ON_1)]


class Reaching:
    """A router over lines that break: what is sent to a shard that is away comes back without an answer."""

    def __init__(self, router: Router, away: set[int]) -> None:
        self._router = router
        self._away = away

    def submit_many(self, envelopes: Any) -> list[Future[Answer]]:
        return [self._submit(envelope) for envelope in envelopes]

    def _submit(self, envelope: CommandEnvelope) -> Future[Answer]:
        if shard_of(PLACEMENT, envelope) not in self._away:
            return self._router.submit(envelope)
        lost: Future[Answer] = Future()
        lost.set_exception(StoreUnavailable("away"))
        return lost


def verified(stores: TwoStores) -> Report:
    """What `tessera verify` says of both stores."""
    with ExitStack() as stack:
        verifiers = {}
        for store in stores.shards:
            connection = stack.enter_context(closing(psycopg.connect(store.dsn, autocommit=True)))
            log = stack.enter_context(closing(PostgresEventLog(store.dsn, shard=store.shard)))
            verifiers[store.shard] = Verifier(connection, log, KINDS, None, None, shard=store.shard)
        return verify_several(verifiers, PLACEMENT)
