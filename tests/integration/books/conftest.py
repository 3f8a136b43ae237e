"""A whole business in process on the three real engines: commands, sagas, projections, verification, reconciliation."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from clickhouse_connect.driver.client import Client

from command.handlers import KINDS
from contracts.commands import CloseBudgetLease, GrantBudgetLease, OpenBudgetLease, SettleBudgetLease, ShareBudget
from contracts.envelope import Answer
from contracts.leases import BranchTerms, Statement
from infra.clickhouse.connection import connect as connect_clickhouse
from infra.postgres.feed import StoreFeed
from infra.projections.coordination import PostgresCoordination
from infra.projections.service import ProjectionService
from infra.redis.connection import connect as connect_redis
from infra.verify import Report, Verifier
from query.reconciliation import KINDS as BREAK_KINDS
from query.reconciliation import Found, commands_for, find_breaks, open_breaks
from tests.engines import Corners
from tests.integration.sagas.world import Store, World


class Business:
    """One store with its sagas and projections; ``world`` plays the upstream of one realm."""

    def __init__(self, dsn: str, redis_url: str, clickhouse_url: str, stack: ExitStack) -> None:
        self.store = Store(dsn)
        stack.callback(self.store.close)
        self.world = World(self.store)
        stack.callback(self._close_world)
        self.projections = stack.enter_context(
            ProjectionService(postgres_dsn=dsn, redis_url=redis_url, clickhouse_url=clickhouse_url)
        )
        self.projections.migrate()
        self.redis: redis.Redis = stack.enter_context(connect_redis(redis_url))
        self.clickhouse: Client = connect_clickhouse(clickhouse_url)
        stack.callback(self.clickhouse.close)
        self.sql = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        self.addresses = {
            "TESSERA_POSTGRES_DSN": dsn,
            "TESSERA_REDIS_URL": redis_url,
            "TESSERA_CLICKHOUSE_URL": clickhouse_url,
        }
        self._dsn = dsn
        self._runs = 0

    def _close_world(self) -> None:
        self.world.close()  # Whichever it is by then.

    def begin_anew(self) -> None:
        """Another realm in the same stores: nobody sees what is not theirs, so this is as good as empty ones."""
        self.world.close()
        self.world = World(self.store)

    def follow(self) -> None:
        """Sagas until quiet, then every projection up to the head of the log."""
        self.world.settle()
        self.project()

    def project(self) -> None:
        """Every projection up to the head of the log, whatever the sagas did not hear yet."""
        feed, coordination = StoreFeed(self._dsn), PostgresCoordination(self._dsn)
        try:
            for follower in (
                self.projections.redis_follower(feed, coordination),
                self.projections.facts_follower(feed, coordination, self.projections.facts),
            ):
                while follower.step():
                    pass
        finally:
            feed.close()
            coordination.close()

    def verify(self) -> Report:
        """What `tessera verify` says."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            return Verifier(connection, self.store.log, KINDS, self.redis, self.clickhouse).run()

    def broken(self) -> set[str]:
        """The invariants that verification names."""
        return {violation.invariant for violation in self.verify().violations}

    def rows(self, sql: str, parameters: Any = None) -> Any:
        """Facts: this is what a FactStore is."""
        return self.clickhouse.query(sql, parameters=dict(parameters or {})).result_rows

    def bucket(self, model: str, tag: str) -> str:
        """The Redis key of a bucket in the version that readers use."""
        active = self.redis.hget(f"{model}:control", "active")
        assert isinstance(active, bytes)
        return f"{model}:v{active.decode()}:{{{tag}}}"

    @contextmanager
    def sql_undone(self) -> Iterator[None]:
        """Whatever is written to the log's tables meanwhile is undone afterwards."""
        tables = ("stored_events", "stored_snapshots", "command_log", "guard_counts", "parked_events")
        for table in tables:
            self.sql.execute(f"CREATE TEMP TABLE kept_{table} AS TABLE {table}".encode())
        try:
            yield
        finally:
            for table in tables:
                self.sql.execute(f"TRUNCATE {table}".encode())
                self.sql.execute(f"INSERT INTO {table} TABLE kept_{table}".encode())
                self.sql.execute(f"DROP TABLE kept_{table}".encode())

    def found(self, as_of: datetime | None = None, patience: timedelta = timedelta(0)) -> list[Found]:
        """What reconciliation finds in this world, as of now unless told otherwise."""
        found = find_breaks(self, as_of=as_of or datetime.now(UTC), patience=patience)
        return [each for each in found if each.realm == self.world.realm]

    def breaks(self) -> list[tuple[str, str]]:
        """The breaks on record: kind and status."""
        sql = "SELECT kind, status FROM breaks WHERE tenant_id = {tenant:String} ORDER BY opened_at, kind"
        return [tuple(row) for row in self.rows(sql, {"tenant": self.world.realm.tenant_id})]

    def reconcile(self) -> list[Answer]:
        """A recorded run: open what is new, close what is settled, and let the facts follow."""
        self._runs += 1
        on_record = [row for row in open_breaks(self) if row.realm == self.world.realm]
        commands = commands_for(self.found(), on_record, run_id=f"run{self._runs}", checked=BREAK_KINDS)
        answers = [self.store.engine.execute(command) for command in commands]
        self.project()
        return answers


@contextmanager
def new_business(corners: Corners) -> Iterator[Business]:
    """Empty stores, a realm at noon."""
    with ExitStack() as stack:
        dsn = stack.enter_context(corners.postgres())
        redis_url = stack.enter_context(corners.redis())
        clickhouse_url = stack.enter_context(corners.clickhouse())
        yield Business(dsn, redis_url, clickhouse_url, stack)


def a_bit_of_everything(business: Business) -> None:
    """A clean day: claims, paid, failed, cancelled, lapsed and refunded orders."""
    world = business.world
    world.budget(20_000).template(stock=6, claims_per_user_max=2, budget_ids=("pot",))
    for label, user in (("a", "ann"), ("b", "bob"), ("c", "cy"), ("d", "dee"), ("e", "ann")):
        world.claim(label, user=user)
    world.place("paid", "a", user="ann").settle().pay("p1", "paid").settle()
    world.place("failed", "b", user="bob").settle().fail("p2", "failed").settle()
    world.place("refunded", "c", user="cy").settle().pay("p3", "refunded").settle()
    world.refund("r1", "refunded", 1_000).refund("r2", "refunded", 4_000).settle()
    world.place("cancelled", "d", user="dee").settle().cancel("cancelled").settle()
    world.place("lapsed", "e", user="ann").settle().later(minutes=20).settle()
    _lend(world)
    business.follow()


def _lend(world: World) -> None:
    """Some of the pot is lent to another shard, which spends of it; and something of another shard's is lent here."""
    lease: dict[str, Any] = {"budget_id": "pot", "holder": "1", "period": ""}
    world.tell(ShareBudget(budget_id="pot", holder="1"))
    world.tell(GrantBudgetLease(**lease, number=1, need_minor=700, free_minor=0, term_seconds=900))
    spent = Statement(number=1, opened_minor=700, committed_minor=300, credited_minor=100)
    world.tell(SettleBudgetLease(**lease, statement=spent))
    terms = BranchTerms(name="Far", currency="GBP", recurs=None, zone="UTC", when_short="refuse")
    far: dict[str, Any] = {"budget_id": "far", "period": "", "number": 1, "terms": terms}
    until = datetime(2026, 3, 1, 18, tzinfo=UTC)
    world.tell(OpenBudgetLease(**far, amount_minor=500, left_minor=0, until=until))
    world.tell(CloseBudgetLease(**far))


@pytest.fixture(scope="module")
def shared_day(corners: Corners) -> Iterator[Business]:
    """A clean day that all tests of a module share: whoever damages it mends it."""
    with new_business(corners) as business:
        a_bit_of_everything(business)
        yield business


@pytest.fixture(scope="module")
def shared_stores(corners: Corners) -> Iterator[Business]:
    """Stores that all tests of a module share."""
    with new_business(corners) as business:
        yield business


@pytest.fixture
def business(shared_stores: Business) -> Business:
    """A realm of one's own, at noon, with nothing in it."""
    shared_stores.begin_anew()
    return shared_stores
