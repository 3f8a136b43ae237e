"""The command log is kept as long as configured, and not longer."""

from datetime import UTC, datetime, timedelta

import psycopg

from command.ports import Batch, CommandKey, LoggedAnswer
from contracts.identity import Realm
from infra.postgres.housekeeping import Housekeeper
from infra.postgres.log import PostgresEventLog

REALM = Realm("acme", "shop")


def answered(name: str) -> LoggedAnswer:
    return LoggedAnswer(CommandKey(REALM, name), "claim_coupon", "hash", "refused", "ended", "", {})


def test_answers_are_dropped_after_their_days_and_not_before(postgres_dsn: str) -> None:
    log = PostgresEventLog(postgres_dsn)
    with log.appending() as transaction:
        transaction.append(Batch(answers=[answered("old"), answered("young")], answer_events=[-1, -1]))
    now = datetime.now(UTC)
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE command_log SET answered_at = %s WHERE command_id = 'old'", (now - timedelta(days=31),)
        )
    assert Housekeeper(postgres_dsn, keep_days=32).tidy(now) == 0
    assert Housekeeper(postgres_dsn, keep_days=30).tidy(now) == 1
    with log.reading() as view:
        kept = view.answers([CommandKey(REALM, "old"), CommandKey(REALM, "young")])
    assert [key.command_id for key in kept] == ["young"]
    log.close()
