"""An upgrade with old and new binaries on one store: the older one stops where it must, and nothing is lost."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from command.engine import Engine, StreamClosed
from command.handlers import HANDLERS
from contracts.commands import Command, RevokeCoupon
from contracts.envelope import Answer, CommandEnvelope
from contracts.events import ALL_EVENTS, CouponRevoked
from contracts.registry import EventRegistry, UnknownEventType
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.projections.coordination import PostgresCoordination
from infra.projections.service import ProjectionService
from infra.sagas.postgres_store import PostgresSagaStore
from infra.sagas.runner import SagaRunner
from projections.catalog import READ_MODELS
from tests.builders import REALM, claim, template
from tests.faults.shop import ALWAYS
from tests.integration.projections import oracle

pytestmark = pytest.mark.faults

# A binary from before coupons could be revoked.
OLDER = EventRegistry(tuple(event for event in ALL_EVENTS if event is not CouponRevoked))
NEWER = EventRegistry(ALL_EVENTS)


class Binary:
    """What one version runs on a store: an engine, the sagas' ear, and both followers."""

    def __init__(self, dsn: str, service: ProjectionService, registry: EventRegistry, stack: ExitStack) -> None:
        self.log = PostgresEventLog(dsn, registry=registry)
        stack.callback(self.log.close)
        self.engine = Engine(self.log, HANDLERS)
        self.engine.start()
        stack.callback(self.engine.stop)
        self.feed = StoreFeed(dsn, registry=registry)
        stack.callback(self.feed.close)
        self._coordination = PostgresCoordination(dsn)
        stack.callback(self._coordination.close)
        self._sagas = SagaRunner(PostgresSagaStore(dsn, self.log), self.feed)
        stack.callback(self._sagas.close)
        self.service = service
        self._sent = 0

    def do(self, name: str, command: Command) -> Answer:
        return self.engine.execute(CommandEnvelope(REALM, name, command, actor="tester", correlation_id="test"))

    def hear(self) -> None:
        while self._sagas.run_once():
            pass

    def project(self, name: str) -> None:
        make = {
            "redis": lambda: self.service.redis_follower(self.feed, self._coordination),
            "facts": lambda: self.service.facts_follower(self.feed, self._coordination, self.service.facts),
        }
        follower = make[name]()
        while follower.step():
            pass


@contextmanager
def side_by_side(postgres_dsn: str, redis_url: str, clickhouse_url: str) -> Iterator[tuple[Binary, Binary]]:
    with ExitStack() as stack:
        service = stack.enter_context(
            ProjectionService(postgres_dsn=postgres_dsn, redis_url=redis_url, clickhouse_url=clickhouse_url)
        )
        service.migrate()
        yield Binary(postgres_dsn, service, OLDER, stack), Binary(postgres_dsn, service, NEWER, stack)


def test_an_older_binary_halts_at_what_it_does_not_know_and_goes_on_after_its_upgrade(
    postgres_dsn: str, redis_url: str, clickhouse_url: str
) -> None:
    with side_by_side(postgres_dsn, redis_url, clickhouse_url) as (older, newer):
        for number, command in enumerate(template("t", **ALWAYS)):
            assert older.do(f"open{number}", command).accepted
        coupons = [
            (older, newer)[nth % 2].do(f"claim{nth}", claim(f"u{nth}", "t")).data["coupon_id"] for nth in range(4)
        ]
        older.hear()
        older.project("redis")
        older.project("facts")
        known = newer.feed.head()

        revoked = RevokeCoupon(coupon_id=coupons[0], reason="fraud")
        assert newer.do("revoke", revoked).accepted
        # Only the stream that holds it is closed to the older one; both go on with all others.
        with pytest.raises(StreamClosed, match="unknown event type"):
            older.do("again", revoked)
        for nth, binary in enumerate((older, newer)):
            assert binary.do(f"later{nth}", claim(f"v{nth}", "t")).accepted

        for follow in (older.hear, lambda: older.project("redis"), lambda: older.project("facts")):
            with pytest.raises(UnknownEventType, match=r"coupon\.revoked\.v1.*upgrade this process"):
                follow()
        assert {state.offset for state in newer.service.states()} == {known}

        newer.hear()
        newer.project("redis")
        newer.project("facts")
        log = newer.feed.read(0, 10_000)
        assert newer.service.checksums(list(READ_MODELS)) == oracle.checksums(log)
        rows = newer.service.facts.checksums(newer.feed.head())
        assert {table: found.rows for table, found in rows.items() if found.rows} == oracle.row_counts(log)
        # What the newer one passed is behind the older one, too: it goes on where it can read.
        older.project("redis")
        older.hear()
