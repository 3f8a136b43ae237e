"""One verification from beginning to end: fold the log, then ask each store for the same figures at one offset."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import psycopg
import redis
from clickhouse_connect.driver.client import Client

from command.ports import EventLog
from command.unit_of_work import Kind
from infra.verify import clickhouse_figures, log_rows, redis_figures
from infra.verify.replay import check_snapshots
from query.verify.answers import check_answers
from query.verify.between_shards import ShardView
from query.verify.books import Books
from query.verify.figures import Shown, Told, told_to_facts, told_to_read_models, violations_of
from query.verify.raw import RawEvent, Violation

QUIET_ROUNDS_MAX = 20

Progress = Callable[[int, int], None]
Pause = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked and what was found. ``compared`` names the stores that stood still long enough to compare."""

    events: int
    commands: int
    compared: tuple[str, ...]
    not_compared: tuple[str, ...]
    violations: tuple[Violation, ...]
    shards: Mapping[int, int] = field(default_factory=dict)  # The last offset of each, where there are several.

    @property
    def holds(self) -> bool:
        """Whether every invariant holds and every store was compared."""
        return not self.violations and not self.not_compared


class Verifier:
    """Verifies one shard; ``shard`` says how its models are called in Redis.

    Reads only; may run while traffic goes on (stores are compared once they stand still).
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        log: EventLog,
        kinds: Mapping[str, Kind[Any]],
        redis_client: "redis.Redis | None",
        clickhouse: Client | None,
        *,
        shard: int = 0,
        progress: Progress = lambda _done, _all: None,
        pause: Pause = lambda: None,
    ) -> None:
        self._connection = connection
        self._log = log
        self._kinds = kinds
        self._redis = redis_client
        self._clickhouse = clickhouse
        self._shard = shard
        self._progress = progress
        self._pause = pause
        self._books = Books()
        self._not_compared: list[str] = []

    def run(self) -> Report:
        """Check everything. Raises psycopg.Error, redis.RedisError or ClickHouseError when a store is out of reach."""
        with self._connection.transaction():  # One instant of the log, the command log and the counters.
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._fold(log_rows.head(self._connection))
            commands = count()
            answers = (answer for answer, _ in zip(log_rows.answers(self._connection), commands, strict=False))
            found = [*check_answers(self._books, answers), *self._check_guards(), *self._check_parked()]
        with self._log.reading() as view:
            found += check_snapshots(view, self._kinds, log_rows.snapshots(self._connection))
        found += self._compare("Redis", self._redis_at, self._redis_shows, told_to_read_models)
        found += self._compare("ClickHouse", self._clickhouse_at, self._clickhouse_shows, told_to_facts)
        skipped = tuple(self._not_compared)
        compared = tuple(name for name in ("Redis", "ClickHouse") if name not in skipped)
        violations = (*self._books.finish(), *self._books.overdue_locks(), *found)
        return Report(self._books.last_offset, next(commands), compared, skipped, violations)

    def look(self) -> ShardView:
        """This shard as it is by now, to be held against others. Raises psycopg.Error."""
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._fold(log_rows.head(self._connection))
            return ShardView(self._books, log_rows.letters(self._connection), log_rows.heard(self._connection))

    def _fold(self, upto: int) -> None:
        self._books.fold(self._counted(log_rows.events(self._connection, self._books.last_offset, upto), upto))

    def _counted(self, events: Iterable[RawEvent], upto: int) -> Iterator[RawEvent]:
        for number, event in enumerate(events):
            if number % log_rows.BATCH_ROWS == 0:
                self._progress(event.offset, upto)
            yield event
        self._progress(upto, upto)

    def _check_guards(self) -> Iterator[Violation]:
        """The counters that guard per-user limits say what the log says (open reservations count, too)."""
        expected = self._books.guard_counters()
        while some := dict(islice(expected, log_rows.BATCH_ROWS)):
            counters = log_rows.guard_counts(self._connection, list(some))
            for key, value in some.items():
                if counters.get(key, 0) != value:
                    yield Violation("I1", f"guard {key}", f"the log says {value}, the counter {counters.get(key, 0)}")

    def _check_parked(self) -> Iterator[Violation]:
        for follower, stream, version, reason in log_rows.parked(self._connection):
            yield Violation("I6", f"{stream}@{version}", f"parked by {follower}: {reason}")

    def _compare(
        self,
        store: str,
        position: Callable[[], int | None],
        shown: Callable[[], Iterator[Shown]],
        told: Callable[[Books], Mapping[str, Told]],
    ) -> list[Violation]:
        """Fold the log to the offset that a store has reached, and compare; again if either went on meanwhile."""
        for _ in range(QUIET_ROUNDS_MAX):
            head = log_rows.head(self._connection)
            before = position()
            if before is None:
                break
            if before == head:
                with self._connection.transaction():
                    self._fold(head)
                found = list(violations_of(store, told(self._books), shown()))
                if position() == head == log_rows.head(self._connection):
                    return found
            self._pause()
        self._not_compared.append(store)
        return []

    def _redis_at(self) -> int | None:
        return None if self._redis is None else min(redis_figures.positions(self._redis, self._shard).values())

    def _redis_shows(self) -> Iterator[Shown]:
        assert self._redis is not None
        return redis_figures.shown(self._redis, self._shard)

    def _clickhouse_at(self) -> int | None:
        return None if self._clickhouse is None else clickhouse_figures.position(self._clickhouse)

    def _clickhouse_shows(self) -> Iterator[Shown]:
        assert self._clickhouse is not None
        return clickhouse_figures.shown(self._clickhouse)
