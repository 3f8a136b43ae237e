"""How every connection to PostgreSQL is made: no wait without an end, and errors in the words of the ports."""

import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import psycopg
from psycopg import generators
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready

from command.ports import StoreUnavailable
from infra import fiber


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

    def server_settings(self) -> dict[str, str]:
        """The limits that the server enforces, by the names of its settings.

        A transaction that its client forgot would hold the append lock for ever: it is ended after the time that the
        client itself gives up.
        """
        seconds = {
            "lock_timeout": self.lock_seconds,
            "statement_timeout": self.statement_seconds,
            "idle_in_transaction_session_timeout": self.answer_seconds,
        }
        return {name: f"{int(value * 1000)}ms" for name, value in seconds.items()}


DEFAULT_TIMEOUTS = Timeouts()

# For connections that only ever look things up by key. A plan is kept for a session's whole life: one that was made
# while the tables were nearly empty would scan them for ever after. Planning anew for every batch would cost more than
# a small batch itself. Joins are with what the caller named, one key after the other, in the order of an index: to a
# planner without statistics reading all of a tenant at once looks as cheap as one key of it.
BY_KEY = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}

# For the connection that takes the append lock. A process that stopped while it holds the lock must not stop the others
# for long: the server ends its session, be it that it waits for the process to speak or to listen. (What it waits for
# in the middle of an exchange is limited by the database's `take_append_lock`.)
APPENDING = {**BY_KEY, "idle_in_transaction_session_timeout": "3s", "tcp_user_timeout": "3s"}

# For the connection that looks ahead while a batch is being stored: that batch's callers wait for the look as well.
# A table that somebody has locked is not waited for; the batch is then decided under the append lock, from scratch.
GLANCING = {**BY_KEY, "lock_timeout": "500ms"}


class Statement(NamedTuple):
    """What a connection prepares once, under a name: its text with ``$1`` … and the parameters' types (oids)."""

    name: bytes
    text: str
    parameter_types: tuple[int, ...]


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that does not wait for ever for a server that stopped without closing the line."""

    answer_seconds: float = DEFAULT_TIMEOUTS.answer_seconds
    _statements: frozenset[bytes] = frozenset()  # Those that are prepared.
    _owed: Statement | None = None  # Sent, and not asked yet what came of it.

    def ask(self, statement: Statement, parameters: Sequence[bytes]) -> PGresult:
        """Run a statement whose parameters and result are binary, and nothing of it converted.

        For what every batch asks: cursors, adapters and pipelines cost more than a small batch itself. Raises what a
        cursor would raise.
        """
        self.send(statement, parameters)
        return self.answer_to(statement)

    def send(self, statement: Statement, parameters: Sequence[bytes]) -> None:
        """Send a statement for :meth:`ask`, all of it, and do not wait for what comes of it."""
        with self.lock:
            if statement.name not in self._statements:
                self.pgconn.send_prepare(statement.name, statement.text.encode(), statement.parameter_types)
                self._result()
                self._statements |= {statement.name}
            formats = [Format.BINARY] * len(parameters)
            self.pgconn.send_query_prepared(statement.name, parameters, formats, Format.BINARY)
            self._owed = statement
            self.wait(generators.send(self.pgconn))

    def answer_to(self, statement: Statement) -> PGresult:
        """Wait for what came of the statement that was sent last."""
        with self.lock:
            self._owed = None
            try:
                return self._result()
            except psycopg.errors.InvalidSqlStatementName:
                self._statements -= {statement.name}  # Somebody between us and the server lost it: only this once.
                raise

    def drop_answer(self) -> None:
        """Let go of what came of a statement that was sent and that nobody waited for. Raises as waiting for it.

        Where nothing came yet the connection is closed: another one is there sooner than this may take.
        """
        if self._owed is None:
            return
        self.pgconn.consume_input()
        if self.pgconn.is_busy():
            self.close()
        else:
            self.answer_to(self._owed)

    def _wait_in_fiber(self, gen: PQGen[RV]) -> RV:
        """As psycopg waits, but the event loop serves others meanwhile. What is there already is not waited for."""
        file, deadline, poll = self.pgconn.socket, monotonic() + self.answer_seconds, select.poll()
        try:
            wanted = next(gen)
            while True:
                reads, writes = bool(wanted & Ready.R), bool(wanted & Ready.W)
                poll.register(file, reads * select.POLLIN | writes * select.POLLOUT)
                if polled := poll.poll(0):
                    ((_, events),) = polled
                    can_read = bool(events & ~select.POLLOUT)  # Or is broken, which reading will tell.
                    can_write = bool(events & select.POLLOUT)
                    wanted = gen.send(Ready(can_read * Ready.R | can_write * Ready.W))
                else:
                    fiber.watch(file, deadline - monotonic(), reads=reads, writes=writes)
                if monotonic() >= deadline:
                    raise psycopg.errors._WaitTimeout("wait timeout expired")
        except StopIteration as done:
            told: RV = done.value
            return told
        except Exception:
            raise
        except BaseException:  # Cancelled: what comes of it belongs to a question that nobody asks any more.
            self.pgconn.finish()
            raise

    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        """As inherited. After a rollback the driver lets the server forget all statements (None), ours with its own."""
        if name is None:
            self._statements = frozenset()
        return super()._deallocate(name)

    def _result(self) -> PGresult:
        result: PGresult
        (result,) = self.wait(generators.execute(self.pgconn))
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise psycopg.errors.error_from_result(result)
        return result

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As inherited, but a caller who names no time-out gets ours and an OperationalError."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            if fiber.is_here():
                return self._wait_in_fiber(gen)
            return super().wait(gen, interval, self.answer_seconds)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()  # Whatever it says later belongs to a question that nobody asks any more.
            raise psycopg.OperationalError(f"the server did not answer within {self.answer_seconds} s") from error


def parameters(dsn: str, timeouts: Timeouts, *, name: str, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A DSN's connection parameters, with our limits, the component's name and its session settings added."""
    given = conninfo_to_dict(dsn)
    session = {"TimeZone": "UTC", **timeouts.server_settings(), **(settings or {})}
    options = [str(given["options"])] if given.get("options") else []
    return {
        **given,
        "connect_timeout": timeouts.connect_seconds,
        "options": " ".join([*options, *(f"-c {key}={value}" for key, value in session.items())]),
        "application_name": f"tessera {name}",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        # What was sent and nobody's kernel has acknowledged for so long is lost: the line is dead. A server that only
        # takes its time acknowledges at once.
        "tcp_user_timeout": timeouts.connect_seconds * 1_000,
    }


def connect(
    dsn: str,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    *,
    name: str,
    autocommit: bool = False,
    settings: Mapping[str, str] | None = None,
) -> BoundedConnection:
    """Open one connection. Raises psycopg.OperationalError when the server is out of reach."""
    given = parameters(dsn, timeouts, name=name, settings=settings)
    connection = fiber.blocking(lambda: BoundedConnection.connect(**given, autocommit=autocommit))
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
    except (psycopg.errors.IdleInTransactionSessionTimeout, psycopg.errors.TransactionTimeout) as error:
        raise StoreUnavailable(str(error)) from error
