"""What tests that need engines share: a fresh corner of the one stack that their process runs."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import clickhouse_connect
import psycopg
import redis
from clickhouse_connect.driver.client import Client

from infra.embedded import Endpoints
from infra.embedded.kafka import EmbeddedKafka
from infra.postgres.migrations import migrate

REDIS_DATABASES = 64  # As the embedded server is started with.
_TEMPLATE = "tessera_template"
_EMPTY = "template0"
_prefixes = itertools.count(1)


def prepare_template(dsn: str) -> None:
    """What every fresh PostgreSQL database begins with; runs once per test process."""
    migrate(dsn)


class Corners:
    """Hands out fresh databases, quickly: PostgreSQL's are copies of a template that was prepared once."""

    def __init__(self, endpoints: Endpoints, prepare: Callable[[str], None] = prepare_template) -> None:
        self._endpoints = endpoints
        self._prepare = prepare
        self._numbers = itertools.count(1)
        self._has_template = False

    @contextmanager
    def postgres(self, *, empty: bool = False) -> Iterator[str]:
        """The DSN of a database of one's own, dropped afterwards, whoever is still connected to it."""
        template = _EMPTY if empty else self._template()
        name = f"t_{next(self._numbers)}"
        self._admin(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield at_database(self._endpoints.postgres_dsn, name)
        finally:
            self._admin(f'DROP DATABASE "{name}" WITH (FORCE)')

    @contextmanager
    def redis(self) -> Iterator[str]:
        """The URL of an empty logical database; the one used longest ago is taken again."""
        url = at_database(self._endpoints.redis_url, str(next(self._numbers) % REDIS_DATABASES))
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        yield url

    @contextmanager
    def clickhouse(self) -> Iterator[str]:
        """The URL of an empty database of one's own, dropped afterwards."""
        name = f"t_{next(self._numbers)}"
        with clickhouse(self._endpoints.clickhouse_url) as admin:
            admin.command(f"CREATE DATABASE `{name}`")
            try:
                yield at_database(self._endpoints.clickhouse_url, name)
            finally:
                admin.command(f"DROP DATABASE `{name}` SYNC")

    def _template(self) -> str:
        if not self._has_template:
            self._admin(f'CREATE DATABASE "{_TEMPLATE}" TEMPLATE "{_EMPTY}"')
            self._prepare(at_database(self._endpoints.postgres_dsn, _TEMPLATE))
            self._has_template = True
        return _TEMPLATE

    def _admin(self, statement: str) -> None:
        with psycopg.connect(self._endpoints.postgres_dsn, autocommit=True) as connection:
            connection.execute(statement.encode())


def at_database(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


@contextmanager
def running_kafka() -> Iterator[EmbeddedKafka]:
    """A broker of one's own in a folder of its own; what it held is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tessera-test-kafka-", ignore_cleanup_errors=True) as folder:
        kafka = EmbeddedKafka(Path(folder))
        try:
            kafka.start()
            yield kafka
        finally:
            kafka.stop()


def fresh_prefix() -> str:
    """A prefix that no other test of this process has: ``t7.``."""
    return f"t{next(_prefixes)}."


@contextmanager
def clickhouse(url: str, **options: Any) -> Iterator[Client]:
    """A stock `clickhouse-connect` client, closed afterwards."""
    client = clickhouse_connect.get_client(dsn=url, **options)
    try:
        yield client
    finally:
        client.close()
