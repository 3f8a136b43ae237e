"""What a batch has to know of the store before it can be decided, asked in one statement."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final, NamedTuple

from eventsourcing.persistence import Notification
from psycopg.pq.abc import PGresult

from command.ports import Snapshot, StreamHistory, Wanted
from contracts.envelope import Recorded
from infra.postgres import command_log
from infra.postgres.arrays import BINARY_EPOCH, INTEGER_OID, INTEGERS_OID, TEXTS_OID, integers, integers_of, texts
from infra.postgres.connections import Statement
from infra.postgres.mapper import EventMapper

_INTEGER: Final = Struct("!i").pack


class Head(NamedTuple):
    """Where the log stood at the instant of a look.

    ``now``: the later of the clock and the last event's time; ``time_runs``: that was the clock.
    """

    now: datetime
    time_runs: bool
    last_offset: int
    epoch: str | None


NOT_LOOKED: Final = Head(datetime.min.replace(tzinfo=UTC), False, 0, None)


class Found(NamedTuple):
    """What a look brought. ``is_answered``: some of the commands were; next to none is, so the answers stay there."""

    head: Head
    is_answered: bool
    counts: Mapping[str, int]
    histories: Mapping[str, StreamHistory]


class Question(NamedTuple):
    """A look in the words of the connection: statement and parameters."""

    statement: Statement
    parameters: Sequence[bytes]


def question(wanted: Wanted, shard: int) -> Question:
    """How to ask for all that is wanted. Snapshots are looked for of the kinds with a schema hash only."""
    keys = (_INTEGER(shard), *command_log.columns_of(wanted.answers), texts(wanted.counts))
    if not wanted.streams:
        return Question(_LOOK, keys)
    hash_of, known = wanted.schema_hashes or {}, wanted.known or {}
    hashes = [hash_of.get(_kind(stream), "") for stream in wanted.streams]
    versions = [known.get(stream, 0) for stream in wanted.streams]
    return Question(_LOOK_AT_STREAMS, (*keys, texts(wanted.streams), texts(hashes), integers(versions)))


def found(result: PGresult, wanted: Wanted, mapper: EventMapper) -> Found:
    """What came of a question. Raises UnknownEventType, UnreadableEvent."""
    rows = range(result.ntuples)
    (head,) = (row for row in rows if result.get_value(row, 0) is not None)  # The one that tells the time.
    micros, runs, offset, epoch, is_answered, counts = (result.get_value(head, column) or b"" for column in _OF_HEAD)
    now = BINARY_EPOCH + timedelta(microseconds=int.from_bytes(micros, signed=True))
    values = zip(wanted.counts, integers_of(counts), strict=True)
    return Found(
        Head(now, any(runs), int.from_bytes(offset), epoch.decode() or None),
        any(is_answered),
        {key: value for key, value in values if value != _ABSENT},
        _histories(result, [row for row in rows if row != head], mapper),
    )


def _histories(result: PGresult, rows: Sequence[int], mapper: EventMapper) -> Mapping[str, StreamHistory]:
    snapshots: dict[str, Snapshot] = {}
    events: dict[str, list[Recorded]] = {}
    for row in rows:
        offset, name, number, topic, state = (result.get_value(row, column) or b"" for column in _OF_STREAM)
        stream, version, kind = name.decode(), int.from_bytes(number), topic.decode()
        if offset:
            stored = Notification(stream, version, kind, state, id=int.from_bytes(offset))
            events.setdefault(stream, []).append(mapper.to_domain_event(stored))
        else:
            snapshots[stream] = Snapshot(stream, version, kind, state)
    streams = snapshots.keys() | events.keys()
    return {stream: StreamHistory(snapshots.get(stream), events.get(stream, ())) for stream in streams}


def _kind(stream: str) -> str:
    return stream.split("/", 3)[2]


_OF_HEAD: Final = range(6)
_OF_STREAM: Final = (2, 6, 7, 8, 9)
_ABSENT: Final = -(2**63)  # Among counters: this one is not stored. A number, since a null would have another length.

SELECT_HEAD: Final = """
    SELECT greatest(clock, recorded_at) AS now,
           clock > coalesce(recorded_at, '-infinity') AS time_runs,
           coalesce(last_offset, 0) AS last_offset,
           (SELECT epoch FROM store_epoch WHERE shard = {}) AS epoch
    FROM (SELECT clock_timestamp() AS clock OFFSET 0) AS told
    LEFT JOIN (
        SELECT notification_id AS last_offset,
               (convert_from(state, 'UTF8')::jsonb ->> 'rec')::timestamptz AS recorded_at
        FROM stored_events ORDER BY notification_id DESC LIMIT 1
    ) AS latest ON true
"""

# The head, whether any of the commands was answered before, and the counters, in the order in which they were named.
_SELECT_KEYS: Final = f"""
    WITH head AS ({SELECT_HEAD.format("$1")})
    SELECT head.*,
           EXISTS (
               SELECT FROM unnest($2, $3, $4) AS wanted (tenant_id, app_id, command_id)
               CROSS JOIN LATERAL (
                   SELECT FROM command_log AS l
                   WHERE l.command_id = wanted.command_id AND l.tenant_id = wanted.tenant_id
                     AND l.app_id = wanted.app_id
                   LIMIT 1
               ) AS found
           ) AS is_answered,
           ARRAY(SELECT coalesce((SELECT value FROM guard_counts WHERE key = wanted), {_ABSENT})
                 FROM unnest($5) AS wanted) AS counts
"""

# After that row those of the streams: the snapshot of the wanted schema (the empty hash: none) and the events after it,
# by version; of a stream that is known up to a version nothing before that. LATERAL with its own ORDER BY keeps the
# planner on one index range per stream, whatever it believes about unnest.
_SELECT_STREAMS: Final = """
    SELECT NULL, NULL, stored.notification_id, NULL, NULL, NULL,
           stored.originator_id, stored.originator_version, stored.topic, stored.state
    FROM unnest($6, $7, $8) AS wanted (stream, hash, known)
    CROSS JOIN LATERAL (
        SELECT NULL::bigint, originator_id, originator_version, topic, state
        FROM stored_snapshots
        WHERE originator_id = wanted.stream AND topic = wanted.hash AND originator_version > wanted.known
        UNION ALL (
            SELECT notification_id, originator_id, originator_version, topic, state
            FROM stored_events
            WHERE originator_id = wanted.stream AND originator_version > greatest(wanted.known, (
                SELECT max(originator_version)
                FROM stored_snapshots WHERE originator_id = wanted.stream AND topic = wanted.hash
            ))
            ORDER BY originator_version
        )
    ) AS stored (notification_id, originator_id, originator_version, topic, state)
"""
_OF_KEYS: Final = (INTEGER_OID, TEXTS_OID, TEXTS_OID, TEXTS_OID, TEXTS_OID)

_LOOK: Final = Statement(b"look", f"{_SELECT_KEYS} FROM head", _OF_KEYS)
_LOOK_AT_STREAMS: Final = Statement(
    b"look_at_streams",
    f"""{_SELECT_KEYS}, NULL AS stream, NULL AS version, NULL AS topic, NULL AS state FROM head
    UNION ALL {_SELECT_STREAMS}""",
    (*_OF_KEYS, TEXTS_OID, TEXTS_OID, INTEGERS_OID),
)
