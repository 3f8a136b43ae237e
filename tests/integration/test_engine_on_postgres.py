"""The engine beside a newer version that writes events it does not know."""

from collections.abc import Iterator

import psycopg
import pytest

from command.engine import Engine, StreamClosed
from command.handlers import HANDLERS
from contracts.commands import NoteOrder
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from infra.postgres.log import PostgresEventLog

REALM = Realm("acme", "shop")


@pytest.fixture
def engine(postgres_dsn: str) -> Iterator[Engine]:
    log = PostgresEventLog(postgres_dsn)
    engine = Engine(log, HANDLERS)
    engine.start()
    yield engine
    engine.stop()
    log.close()


def note(engine: Engine, order_id: str, command_id: str) -> Answer:
    command = NoteOrder(order_id=order_id, status="shipped")
    return engine.execute(CommandEnvelope(REALM, command_id, command, "tester", "corr"))


def test_an_event_of_an_unknown_type_closes_its_own_stream_and_no_other(engine: Engine, postgres_dsn: str) -> None:
    assert note(engine, "o1", "1").accepted
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
            " SELECT originator_id, 2, 'order.teleported.v1', state FROM stored_events WHERE originator_version = 1"
        )
    assert note(engine, "o2", "2").accepted
    with pytest.raises(StreamClosed, match=r"order\.teleported"):
        note(engine, "o1", "3")
    assert note(engine, "o2", "4").accepted
