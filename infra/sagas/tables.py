"""What the saga worker asks of its tables beyond keeping them: what to send next, what is due, where sagas stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from contracts.identity import Realm
from infra.postgres.arrays import instants, integers, texts
from infra.postgres.epoch import read_epoch
from infra.postgres.outbox import PendingCommand
from infra.sagas.hearing import Standing
from infra.sagas.ports import Found, Owed, Retry
from sagas.lending import LETTERS
from sagas.timers import DueTimer

Cursor = psycopg.Cursor[Any]

NO_EPOCH: Final = ""  # Of nothing.


@dataclass(frozen=True, slots=True)
class Backlog:
    """Commands without an answer, those of them that were tried too often or too long, and those refused for good."""

    pending: int
    stuck: int
    refused: int


def count_events(cursor: Cursor, after: int, upto: int) -> int:
    """See :meth:`infra.sagas.ports.SagaStore.count`."""
    cursor.execute(
        "SELECT count(*) FROM stored_events WHERE notification_id > %s AND notification_id <= %s", (after, upto)
    )
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def next_commands(cursor: Cursor, shard: int, limit: int, *, letters: bool = False) -> Found[Owed]:
    """See :meth:`infra.sagas.ports.SagaStore.next_commands`."""
    cursor.execute(_SELECT_HEADS, (shard, LETTERS, letters, limit))
    rows = cursor.fetchall()
    return Found(rows[0][0] if rows else NO_EPOCH, [_owed(row[1:]) for row in rows])


def _owed(row: tuple[Any, ...]) -> Owed:
    number, attempts, saga, tenant, app, *rest = row
    return Owed(number, attempts, PendingCommand(saga, Realm(tenant, app), *rest))


def refuse_commands(cursor: Cursor, refusals: Mapping[int, tuple[str, str]]) -> None:
    """These were refused for good (id -> code, detail): kept for an operator, never sent again."""
    if refusals:
        codes, details = zip(*refusals.values(), strict=True)
        cursor.execute(_REFUSE_COMMANDS, (list(refusals), list(codes), list(details)))


def delay_commands(cursor: Cursor, errors: Mapping[int, str], retry: Retry) -> None:
    """These got no answer (id -> why): tried again later, ever less often."""
    if errors:
        cursor.execute(_DELAY_COMMANDS, (*retry, list(errors), list(errors.values())))


def is_epoch(cursor: Cursor, shard: int, epoch: str) -> bool:
    """Whether the shard's history is still this one."""
    return read_epoch(cursor, shard) == epoch


def due_timers(cursor: Cursor, shard: int, limit: int, realms_max: int) -> Found[DueTimer]:
    """See :meth:`infra.sagas.ports.SagaStore.due_timers`."""
    cursor.execute(_SELECT_DUE_REALMS, (realms_max,))
    realms = cursor.fetchall()
    if not realms:
        return Found(NO_EPOCH, [])
    share = max(1, limit // len(realms))
    tenants, apps, nows = zip(*realms, strict=True)
    cursor.execute(_SELECT_DUE, (shard, list(tenants), list(apps), list(nows), share, limit))
    rows = cursor.fetchall()
    due = [
        DueTimer(Realm(tenant, app), kind, key, due_at.astimezone(UTC), set_by, data)
        for _, tenant, app, kind, key, due_at, set_by, data in rows
    ]
    return Found(rows[0][0] if rows else NO_EPOCH, due)


def delay_timers(cursor: Cursor, errors: Sequence[tuple[DueTimer, str]], retry: Retry) -> None:
    """These got no answer: tried again later, ever less often."""
    if errors:
        rows = [(*timer.realm, timer.kind, timer.key, timer.set_by, error) for timer, error in errors]
        columns = [list(column) for column in zip(*rows, strict=True)]
        cursor.execute(_DELAY_TIMERS, (*retry, *columns))


def backlog(cursor: Cursor, *, stuck_attempts: int, stuck_seconds: float) -> Backlog:
    """What is owed at this moment, and how much of it does not get on."""
    cursor.execute(_BACKLOG, (stuck_attempts, stuck_seconds))
    row = cursor.fetchone()
    assert row is not None
    return Backlog(*row)


def put_standings(cursor: Cursor, standings: Sequence[Standing]) -> None:
    """Where sagas stand now, one row for each."""
    if not standings:
        return
    cursor.execute(
        _UPSERT_STANDINGS,
        (
            texts([standing.realm.tenant_id for standing in standings]),
            texts([standing.realm.app_id for standing in standings]),
            texts([standing.process for standing in standings]),
            texts([standing.key for standing in standings]),
            integers([standing.process_version for standing in standings]),
            texts([standing.step for standing in standings]),
            texts([standing.because for standing in standings]),
            integers([standing.version for standing in standings]),
            instants([standing.since for standing in standings]),
        ),
    )


def put_clocks(cursor: Cursor, clocks: Mapping[Realm, datetime]) -> None:
    """What business clocks show; they only run forward."""
    if clocks:
        tenants = [realm.tenant_id for realm in clocks]
        apps = [realm.app_id for realm in clocks]
        cursor.execute(_UPSERT_CLOCKS, (tenants, apps, list(clocks.values())))


def business_now(cursor: Cursor, realm: Realm) -> datetime | None:
    """What a realm's business clock shows; None when it lives by the store's."""
    cursor.execute("SELECT shows FROM realm_clocks WHERE tenant_id = %s AND app_id = %s", realm)
    row = cursor.fetchone()
    return None if row is None else row[0].astimezone(UTC)


# The epoch comes with each row, and so is that of the very rows.
_SELECT_HEADS = """
    SELECT (SELECT epoch FROM store_epoch WHERE shard = %s), id, attempts, saga_key, tenant_id, app_id,
           command_id, command_type, payload, actor, correlation_id, causation_id, traceparent, created_offset
    FROM saga_outbox AS head
    WHERE refused_code IS NULL AND starts_with(saga_key, %s) = %s
    AND (retry_at IS NULL OR retry_at <= clock_timestamp())
    AND NOT EXISTS (
        SELECT FROM saga_outbox AS earlier
        WHERE earlier.tenant_id = head.tenant_id AND earlier.app_id = head.app_id
        AND earlier.saga_key = head.saga_key AND earlier.id < head.id AND earlier.refused_code IS NULL
    )
    ORDER BY id
    LIMIT %s
"""

_REFUSE_COMMANDS = """
    UPDATE saga_outbox AS o SET refused_code = answer.code, refused_detail = answer.detail, attempts = attempts + 1
    FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS answer (id, code, detail)
    WHERE o.id = answer.id
"""

_DELAY_COMMANDS = """
    UPDATE saga_outbox AS o
    SET attempts = attempts + 1, last_error = failed.error,
        retry_at = clock_timestamp() + make_interval(secs => least(%s, %s * 2 ^ least(attempts, 20)))
    FROM unnest(%s::bigint[], %s::text[]) AS failed (id, error)
    WHERE o.id = failed.id
"""

# The first query walks from realm to realm in the index, so that its cost is the number of realms, not of timers.
_SELECT_DUE_REALMS = """
    WITH RECURSIVE realms AS (
        (SELECT tenant_id, app_id FROM timers ORDER BY tenant_id, app_id LIMIT 1)
        UNION ALL
        SELECT next.tenant_id, next.app_id FROM realms CROSS JOIN LATERAL (
            SELECT tenant_id, app_id FROM timers
            WHERE (tenant_id, app_id) > (realms.tenant_id, realms.app_id) ORDER BY tenant_id, app_id LIMIT 1
        ) AS next
    )
    SELECT r.tenant_id, r.app_id, coalesce(c.shows, clock_timestamp()) AS now
    FROM realms AS r
    LEFT JOIN realm_clocks AS c ON c.tenant_id = r.tenant_id AND c.app_id = r.app_id
    CROSS JOIN LATERAL (
        SELECT due_at FROM timers AS t
        WHERE ARRAY[t.tenant_id, t.app_id] = ARRAY[r.tenant_id, r.app_id]
        AND (t.retry_at IS NULL OR t.retry_at <= clock_timestamp())
        ORDER BY due_at LIMIT 1
    ) AS first
    WHERE first.due_at <= coalesce(c.shows, clock_timestamp())
    ORDER BY first.due_at
    LIMIT %s
"""

_SELECT_DUE = """
    SELECT (SELECT epoch FROM store_epoch WHERE shard = %s),
           t.tenant_id, t.app_id, t.kind, t.key, t.due_at, t.set_by, t.data
    FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS r (tenant_id, app_id, now)
    CROSS JOIN LATERAL (
        SELECT tenant_id, app_id, kind, key, due_at, set_by, data FROM timers
        WHERE ARRAY[tenant_id, app_id] = ARRAY[r.tenant_id, r.app_id] AND due_at <= r.now
        AND (retry_at IS NULL OR retry_at <= clock_timestamp())
        ORDER BY due_at, kind, key LIMIT %s
    ) AS t
    LIMIT %s
"""

_BACKLOG = """
    SELECT count(*) FILTER (WHERE refused_code IS NULL),
           count(*) FILTER (WHERE refused_code IS NULL
                            AND (attempts >= %s OR created_at < clock_timestamp() - make_interval(secs => %s))),
           count(*) FILTER (WHERE refused_code IS NOT NULL)
    FROM saga_outbox
"""

_DELAY_TIMERS = """
    UPDATE timers AS t
    SET attempts = attempts + 1, last_error = failed.error,
        retry_at = clock_timestamp() + make_interval(secs => least(%s, %s * 2 ^ least(attempts, 20)))
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[])
        AS failed (tenant_id, app_id, kind, key, set_by, error)
    WHERE t.tenant_id = failed.tenant_id AND t.app_id = failed.app_id AND t.kind = failed.kind AND t.key = failed.key
    AND t.set_by = failed.set_by
"""

_UPSERT_STANDINGS = """
    INSERT INTO sagas (tenant_id, app_id, process, key, process_version, step, because, version, since)
    SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::integer[], %b::text[], %b::text[],
                         %b::bigint[], %b::timestamptz[])
    ON CONFLICT (tenant_id, app_id, process, key) DO UPDATE
    SET process_version = excluded.process_version, step = excluded.step, because = excluded.because,
        version = excluded.version,
        since = CASE WHEN sagas.step = excluded.step THEN sagas.since ELSE excluded.since END
"""

_UPSERT_CLOCKS = """
    INSERT INTO realm_clocks (tenant_id, app_id, shows)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[])
    ON CONFLICT (tenant_id, app_id) DO UPDATE SET shows = greatest(realm_clocks.shows, excluded.shows)
"""
