"""What operators and the demo are wired to: standing of followers, rebuilds, reconciliation, verification, quiet."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from contracts.envelope import CommandEnvelope
from contracts.identity import Realm
from contracts.registry import UnknownEventType
from infra.postgres import positions
from infra.postgres.connections import Timeouts, connect
from infra.postgres.epoch import read_epoch
from infra.postgres.feed import StoreFeed
from infra.postgres.mapper import UnreadableEvent
from infra.projections.service import ProjectionService
from infra.settings import Settings
from infra.shards.distinct import require_distinct_stores
from infra.verify import Report, Verifier, verify_several
from query.reconciliation import KINDS, Found, commands_for, find_breaks, open_breaks
from query.reconciliation.breaks import STORE_DRIFT

SAGAS: Final = "sagas"
RELAY: Final = "relay"
ANSWER_TIMEOUT_SECONDS: Final = 30.0
# Folding a grown log takes its time.
_LONG: Final = Timeouts(statement_seconds=600.0, answer_seconds=620.0)
_VERIFY_PAUSE_SECONDS: Final = 0.25
_QUIET_POLL_SECONDS: Final = 0.01
_QUIET_POLL_SECONDS_MAX: Final = 0.1


class NotQuiet(TimeoutError):
    """Followers, sagas or timers still had something to do when the time was over; the message says who."""


@dataclass(frozen=True, slots=True)
class FollowerStanding:
    """How far a follower has read. ``offset`` and ``lag`` (in events) are None for one that never began."""

    name: str
    offset: int | None
    lag: int | None
    problem: str | None = None  # Why its store cannot tell: it is out of reach, or damaged.
    halted: str | None = None  # Why it cannot pass the next event.


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What shows now, and how many breaks this run opened (or changed) and closed."""

    breaks: Sequence[Found]
    opened: int
    closed: int


class Facts:
    """ClickHouse as reconciliation and imports ask it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def rows(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """All rows of a query. Raises ClickHouseUnavailable."""
        from infra.clickhouse.connection import translated

        with translated():
            rows: Sequence[Sequence[Any]] = self._client.query(
                sql, parameters=dict(parameters), tz_mode="aware"
            ).result_rows
            return rows


@contextmanager
def facts(settings: Settings) -> Iterator[Facts]:
    """A connection to the facts: where tenants are placed, to those of all shards."""
    from infra.clickhouse.connection import connect as connect_clickhouse

    with closing(connect_clickhouse(settings.all_facts_url)) as client:
        yield Facts(client)


@contextmanager
def projections(settings: Settings) -> Iterator[ProjectionService]:
    """Projections by name: list, rebuild, drop."""
    with ProjectionService(
        postgres_dsn=settings.postgres_dsn,
        redis_url=settings.redis_url,
        clickhouse_url=settings.facts_url,
        shard=settings.shard,
    ) as service:
        yield service


def follower_standings(settings: Settings) -> list[FollowerStanding]:
    """The sagas, the relay where there is a Kafka, and every projection; one whose store is away says so by itself.

    Raises StoreUnavailable.
    """
    standings = _standings(settings)
    with closing(StoreFeed(settings.postgres_dsn, shard=settings.shard)) as feed:
        return [
            replace(each, halted=_unreadable_after(feed, each.offset)) if each.lag and not each.halted else each
            for each in standings
        ]


def _unreadable_after(feed: StoreFeed, offset: int | None) -> str | None:
    """Why nobody of this version can pass the event after an offset, if so."""
    try:
        feed.read(offset or 0, 1)
    except (UnknownEventType, UnreadableEvent) as error:
        return str(error)
    return None


def _standings(settings: Settings) -> list[FollowerStanding]:
    with connect(settings.postgres_dsn, name="lag", autocommit=True) as connection, connection.cursor() as cursor:
        head = _head(cursor)
        known = {each.follower: each for each in positions.every(cursor)}
        epoch = read_epoch(cursor, settings.shard)
    with projections(settings) as service:
        states = service.states()
    projected = (FollowerStanding(each.name, each.offset, each.lag, each.problem, each.halted) for each in states)
    in_store = [SAGAS, *([RELAY] if settings.kafka_bootstrap is not None else [])]
    return [*(_standing_in_store(name, known.get(name), head, epoch) for name in in_store), *projected]


def _standing_in_store(
    name: str, known: positions.FollowerPosition | None, head: int, epoch: str | None
) -> FollowerStanding:
    if known is None:  # They keep a position from the first event on.
        return FollowerStanding(name, None if head else 0, None if head else 0)
    halted = None if known.epoch == epoch else str(positions.EpochChanged(name, known.epoch, str(epoch)))
    return FollowerStanding(name, known.offset, max(0, head - known.offset), halted=halted)


def verify(settings: Settings, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Report:
    """Hold log, answers and stores against the invariants; of all shards where tenants are placed.

    Raises when a store is out of reach, or SettingsError when two shards are one.
    """
    require_distinct_stores(settings.known_stores)
    with ExitStack() as stack:
        if not settings.is_placed:
            return stack.enter_context(_verifier(settings, progress)).run()
        verifiers = {
            shard: stack.enter_context(_verifier(settings.at_shard(shard), progress)) for shard in settings.stores
        }
        return verify_several(verifiers, settings.placement)


@contextmanager
def _verifier(settings: Settings, progress: Callable[[int, int], None]) -> Iterator[Verifier]:
    from command.handlers import KINDS as STREAM_KINDS
    from infra.clickhouse.connection import connect as connect_clickhouse
    from infra.postgres.log import PostgresEventLog
    from infra.redis.connection import connect as connect_redis

    with ExitStack() as stack:
        connection = stack.enter_context(connect(settings.postgres_dsn, _LONG, name="verify", autocommit=True))
        log = PostgresEventLog(settings.postgres_dsn, shard=settings.shard)
        stack.callback(log.close)
        redis = connect_redis(settings.redis_url)
        stack.callback(redis.close)
        clickhouse = connect_clickhouse(settings.facts_url)
        stack.callback(clickhouse.close)
        yield Verifier(
            connection,
            log,
            STREAM_KINDS,
            redis,
            clickhouse,
            shard=settings.shard,
            progress=progress,
            pause=lambda: time.sleep(_VERIFY_PAUSE_SECONDS),
        )


def breaks_now(settings: Settings, as_of: datetime | None = None) -> list[Found]:
    """The breaks that show now, drift between the stores included, or in what was recorded by an earlier instant."""
    with facts(settings) as store:
        found = find_breaks(store, as_of=as_of or datetime.now(UTC))
    return found if as_of is not None else [*found, *_drift(verify(settings))]


def reconcile(settings: Settings, *, record: bool = True, verified: Report | None = None) -> ReconcileReport:
    """Find breaks, and record through the engine which are new, changed or settled.

    ``verified``: what verification found just now, where the caller knows. Raises StoreUnavailable,
    ClickHouseUnavailable, RedisUnavailable and engine errors.
    """
    verified = verified or verify(settings)
    with facts(settings) as store:
        found = [*find_breaks(store, as_of=datetime.now(UTC)), *_drift(verified)]
        checked = KINDS if verified.not_compared else (*KINDS, STORE_DRIFT)
        commands = commands_for(found, open_breaks(store), run_id=uuid4().hex, checked=checked)
    if record and commands:
        _send(settings, commands)
    opened = sum(envelope.command.type == "open_break" for envelope in commands)
    return ReconcileReport(found, opened, len(commands) - opened)


def _drift(verified: Report) -> list[Found]:
    """Every figure in which a store differs from the log, as a break."""
    now = datetime.now(UTC)
    return [
        Found(
            realm=_realm_of(each.subject),
            kind=STORE_DRIFT,
            severity="critical",
            subject=each.subject if each.shard is None else f"shard {each.shard}: {each.subject}",
            currency=None,
            amount_minor=0,
            detail=each.detail,
            event_ids=(),
            since=now,
        )
        for each in verified.violations
        if each.invariant == "I8"
    ]


def _realm_of(subject: str) -> Realm:
    """Verification names figures ``tenant/app/kind/key what``."""
    tenant_id, _, rest = subject.partition("/")
    return Realm(tenant_id, rest.partition("/")[0] or tenant_id)


def _send(settings: Settings, envelopes: Sequence[CommandEnvelope]) -> None:
    from infra.bootstrap.stores import running_engine

    with running_engine(settings) as engine:
        for future in engine.submit_many(envelopes):
            future.result(ANSWER_TIMEOUT_SECONDS)


class Quiet:
    """Waits until sagas, timers and projections have nothing left to do. For one thread; connections are kept.

    ``alive`` is called at every look; it raises when waiting is in vain.
    """

    def __init__(self, settings: Settings, alive: Callable[[], None] = lambda: None) -> None:
        self._alive = alive
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(connect(settings.postgres_dsn, name="quiet", autocommit=True))
        self._service = self._stack.enter_context(projections(settings))

    def close(self) -> None:
        """Give the connections back."""
        self._stack.close()

    def wait(self, timeout_seconds: float, *, with_projections: bool = True) -> int:
        """The offset of the log's last event once everybody has digested it. Raises NotQuiet, StoreUnavailable …"""
        deadline = time.monotonic() + timeout_seconds
        poll_seconds = _QUIET_POLL_SECONDS
        while True:
            self._alive()
            head, busy = self._look(with_projections)
            if not busy:
                return head
            if time.monotonic() >= deadline:
                raise NotQuiet(f"after {timeout_seconds:.0f} s there is still work for: {', '.join(busy)}")
            time.sleep(poll_seconds)
            # Looking costs the very cores that are waited for.
            poll_seconds = min(_QUIET_POLL_SECONDS_MAX, poll_seconds * 1.5)

    def _look(self, with_projections: bool) -> tuple[int, list[str]]:
        """The head, and who is not done with it. Writers are asked before and after: none may have moved meanwhile."""
        with self._connection.cursor() as cursor:
            before = _head(cursor)
            busy = _busy_sagas(cursor, before)
            if not busy and with_projections:
                busy = [each.name for each in self._service.states() if each.lag is None or each.lag]
            if not busy and _head(cursor) != before:
                busy = ["writers"]
        return before, busy


def _head(cursor: Any) -> int:
    row = cursor.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events").fetchone()
    return int(row[0])


def _busy_sagas(cursor: Any, head: int) -> list[str]:
    row = cursor.execute(_UNDONE, {"head": head, "sagas": SAGAS}).fetchone()
    return [name for name, is_undone in zip(("sagas", "commands of sagas", "timers"), row, strict=True) if is_undone]


_UNDONE: Final = """
    SELECT
        coalesce((SELECT log_offset FROM follower_positions WHERE follower = %(sagas)s), 0) < %(head)s,
        EXISTS (SELECT FROM saga_outbox WHERE refused_code IS NULL),
        EXISTS (
            SELECT FROM timers AS t
            LEFT JOIN realm_clocks AS c ON c.tenant_id = t.tenant_id AND c.app_id = t.app_id
            WHERE t.due_at <= coalesce(c.shows, clock_timestamp())
        )
"""
