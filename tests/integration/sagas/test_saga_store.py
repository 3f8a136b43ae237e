"""The sagas' store in PostgreSQL keeps what every such store promises."""

from collections.abc import Iterator

import pytest

from infra.postgres.log import PostgresEventLog
from infra.sagas.postgres_store import PostgresSagaStore
from tests.contract.saga_store import Ears, SagaStoreContract
from tests.unit.sagas.stories import Log


@pytest.fixture
def ears(postgres_dsn: str) -> Iterator[Ears]:
    """A database of one's own."""
    log = PostgresEventLog(postgres_dsn)
    store = PostgresSagaStore(postgres_dsn, log)
    yield Ears(store, log, Log())
    store.close()
    log.close()


class TestPostgresSagaStore(SagaStoreContract):
    """On a real server."""
