"""One PostgreSQL connection of one thread, opened when it is needed and again after it broke."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import sql

from infra.postgres.connections import BY_KEY, DEFAULT_TIMEOUTS, BoundedConnection, Timeouts, connect, translated

# What the server would not notice by itself: a client that stopped between the questions of one exchange. It is neither
# idle nor does a statement run, so that no other limit ends it, and whatever it locked stays locked. (PostgreSQL 17+.)
_LIMIT_TRANSACTIONS: Final = sql.SQL(
    "SELECT set_config('transaction_timeout', %s, false) WHERE current_setting('transaction_timeout', true) IS NOT NULL"
)


class Session:
    """Single queries and short transactions on a connection of one's own. Not for several threads."""

    def __init__(self, dsn: str, *, name: str, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
        self._dsn = dsn
        self._name = name
        self._timeouts = timeouts
        self._connection: BoundedConnection | None = None

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """Commit when the block ends, roll back when it raises. Raises StoreUnavailable."""
        with self._open() as connection, connection.transaction(), connection.cursor() as cursor:
            yield cursor

    @contextmanager
    def looking(self) -> Iterator[psycopg.Cursor[Any]]:
        """For queries that need no transaction around them: one round trip each. Raises StoreUnavailable."""
        with self._open() as connection, connection.cursor() as cursor:
            yield cursor

    @contextmanager
    def _open(self) -> Iterator[BoundedConnection]:
        with translated():
            if self._connection is None:
                self._connection = self._connect()
            try:
                yield self._connection
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self.close()
                raise

    def _connect(self) -> BoundedConnection:
        connection = connect(self._dsn, self._timeouts, name=self._name, autocommit=True, settings=BY_KEY)
        connection.execute(_LIMIT_TRANSACTIONS, (f"{int(self._timeouts.answer_seconds * 1_000)}ms",))
        return connection

    def close(self) -> None:
        """Give the connection back; the next transaction opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()
