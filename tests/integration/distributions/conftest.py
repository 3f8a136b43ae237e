"""Distributions on a real store: an engine, a template, and a runner that is stepped by hand or in its thread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from command.engine import Engine
from command.handlers import HANDLERS, KINDS
from contracts.commands import ActivateTemplate, Command, CreateTemplate, StartDistribution
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.terms import AmountOff, Terms, ValidityAfterClaim
from infra.distributions.runner import DistributionRunner, RunnerSettings
from infra.distributions.starting import Starting
from infra.postgres import distributions
from infra.postgres.connections import transaction
from infra.postgres.distributions import Job
from infra.postgres.log import PostgresEventLog
from infra.verify import Verifier

ACME = Realm("acme", "shop")


@dataclass
class Shop:
    """One store with an engine; commands are told by hand."""

    dsn: str
    log: PostgresEventLog
    engine: Engine
    told: int = 0

    def do(self, command: Command) -> Answer:
        self.told += 1
        name = f"told-{self.told}"
        return self.engine.execute(CommandEnvelope(ACME, name, command, "key:merchant", name))

    def template(self, template_id: str = "t1", **changes: Any) -> None:
        now = datetime.now(UTC)
        usual: dict[str, Any] = {
            "name": "Ten off",
            "campaign_id": "spring",
            "currency": "GBP",
            "discount": AmountOff(amount_minor=1000),
            "claims_per_user_max": 1,
            "claim_from": now - timedelta(hours=1),
            "claim_until": now + timedelta(days=1),
            "validity": ValidityAfterClaim(duration_seconds=86_400),
        }
        assert self.do(CreateTemplate(template_id=template_id, terms=Terms(**(usual | changes)))).accepted
        assert self.do(ActivateTemplate(template_id=template_id)).accepted

    def start(
        self, users: Sequence[str], distribution_id: str = "d1", template_id: str = "t1", command_id: str = "start"
    ) -> Answer:
        command = StartDistribution(distribution_id=distribution_id, template_id=template_id, users=len(users))
        envelope = CommandEnvelope(ACME, f"{command_id}-{distribution_id}", command, "key:merchant", "corr-1")
        return Starting(self.dsn, self.engine.dry_run, self.engine.execute).start(envelope, users)

    def runner(self, **settings: Any) -> DistributionRunner:
        return DistributionRunner(self.dsn, self.log, self.engine, RunnerSettings(**settings))

    def run_to_the_end(self) -> None:
        runner = self.runner()
        while runner.run_once():
            pass
        runner.close()

    def job(self, distribution_id: str = "d1") -> Job:
        with transaction(self.dsn, name="test") as cursor:
            job = distributions.find(cursor, ACME, distribution_id)
        assert job is not None
        return job

    def refusals(self, distribution_id: str = "d1") -> dict[int, tuple[str, str]]:
        """Row -> (user, code)."""
        with transaction(self.dsn, name="test") as cursor:
            rows, _ = distributions.refusals(cursor, ACME, distribution_id, 0, 10_000)
        return {row: (user, code) for row, user, code, _ in rows}

    def holders(self) -> list[str]:
        """Whoever holds a coupon, once for each, in the order of the log."""
        sql = """SELECT data -> 'about' ->> 'user_id' FROM events WHERE type = 'coupon.claimed.v1' ORDER BY "offset" """
        return [user for (user,) in self.rows(sql)]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(sql.encode()).fetchall()

    def broken(self) -> list[Any]:
        """What verification of log, answers and counters finds."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return list(Verifier(connection, self.log, KINDS, None, None).run().violations)


@pytest.fixture
def shop(postgres_dsn: str) -> Iterator[Shop]:
    """A store with an engine."""
    log = PostgresEventLog(postgres_dsn)
    engine = Engine(log, HANDLERS)
    engine.start()
    yield Shop(postgres_dsn, log, engine)
    engine.stop()
    log.close()
