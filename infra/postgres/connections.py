"""How every connection to PostgreSQL is made: no wait without an end, and errors in the words of the ports."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict

from command.ports import StoreUnavailable


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for what.

    ``answer_seconds`` is the client's own limit, for a server that says nothing at all. It has to be the longest, so
    that a server that still answers gets to say what was wrong.
    """

    connect_seconds: int = 5
    lock_seconds: float = 5.0
    statement_seconds: float = 15.0
    answer_seconds: float = 20.0

    def server_options(self) -> str:
        """The settings of the session, as an ``options`` connection parameter.

        A transaction that its client forgot would hold the append lock for ever: it is ended after the time that the
        client itself gives up.
        """
        milliseconds = {
            "lock_timeout": self.lock_seconds,
            "statement_timeout": self.statement_seconds,
            "idle_in_transaction_session_timeout": self.answer_seconds,
        }
        limits = [f"-c {name}={int(seconds * 1000)}" for name, seconds in milliseconds.items()]
        return " ".join([*limits, "-c TimeZone=UTC"])


DEFAULT_TIMEOUTS = Timeouts()


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that does not wait for ever for a server that stopped without closing the line."""

    answer_seconds: float = DEFAULT_TIMEOUTS.answer_seconds

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As inherited, but a caller who names no time-out gets ours and an OperationalError."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_seconds)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()  # Whatever it says later belongs to a question that nobody asks any more.
            raise psycopg.OperationalError(f"the server did not answer within {self.answer_seconds} s") from error


def parameters(dsn: str, timeouts: Timeouts, *, name: str) -> dict[str, Any]:
    """A DSN's connection parameters, with our limits and the component's name added."""
    given = conninfo_to_dict(dsn)
    options = f"{given.get('options') or ''} {timeouts.server_options()}".strip()
    return {
        **given,
        "connect_timeout": timeouts.connect_seconds,
        "options": options,
        "application_name": f"tessera {name}",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }


def connect(
    dsn: str, timeouts: Timeouts = DEFAULT_TIMEOUTS, *, name: str, autocommit: bool = False
) -> BoundedConnection:
    """Open one connection. Raises psycopg.OperationalError when the server is out of reach."""
    connection = BoundedConnection.connect(**parameters(dsn, timeouts, name=name), autocommit=autocommit)
    connection.answer_seconds = timeouts.answer_seconds
    return connection


@contextmanager
def transaction(dsn: str, timeouts: Timeouts = DEFAULT_TIMEOUTS, *, name: str) -> Iterator[psycopg.Cursor[Any]]:
    """One transaction on a connection of its own: for operators' commands, not for hot paths.

    Raises StoreUnavailable when the server cannot be reached or is lost on the way.
    """
    with translated(), connect(dsn, timeouts, name=name) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def translated() -> Iterator[None]:
    """Turn what says "out of reach, or too late" into StoreUnavailable; mistakes of ours stay what they are."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise StoreUnavailable(str(error).strip() or type(error).__name__) from error
    except psycopg.errors.IdleInTransactionSessionTimeout as error:
        raise StoreUnavailable(str(error)) from error
