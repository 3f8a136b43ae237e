"""Distributions as rows: their lists of users, staged by chunks, and where each stands, read off its stream."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import orjson
import psycopg

from contracts.commands.distribution import CHUNK_USERS_MAX
from contracts.identity import Realm, stream_id
from contracts.refusals import AlreadyExists

# Whoever works on a distribution holds a lock of this class and the job's number for as long as its session lasts.
LOCK_CLASS: Final = 7_305_463
NEVER_STARTED_KEPT_HOURS: Final = 24

Status = Literal["staged", "running", "paused", "cancelled", "completed"]

_STATUS_AFTER: Final[dict[str | None, Status]] = {
    None: "staged",
    "distribution.paused.v1": "paused",
    "distribution.cancelled.v1": "cancelled",
    "distribution.completed.v1": "completed",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One distribution as it was staged, and the last thing that its stream says."""

    number: int
    realm: Realm
    distribution_id: str
    template_id: str
    users: int
    actor: str
    correlation_id: str
    traceparent: str | None
    staged_at: datetime
    status: Status
    next_row: int
    issued: int
    refused: int
    reason: str | None
    changed_at: datetime | None

    @property
    def stream(self) -> str:
        """Where its events are."""
        return stream_id(self.realm, "distribution", self.distribution_id)

    @property
    def is_over(self) -> bool:
        """Whether nothing will ever happen to it any more."""
        return self.status in {"cancelled", "completed"}

    def view(self) -> dict[str, Any]:
        """As callers see it."""
        return {
            "distribution_id": self.distribution_id,
            "template_id": self.template_id,
            "status": self.status,
            "users": self.users,
            "decided": self.next_row - 1,
            "issued": self.issued,
            "refused": self.refused,
            "reason": self.reason,
            "started_by": self.actor,
            "staged_at": self.staged_at.isoformat(),
            "changed_at": None if self.changed_at is None else self.changed_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class NewJob:
    """A distribution about to be staged."""

    realm: Realm
    distribution_id: str
    template_id: str
    actor: str
    correlation_id: str
    traceparent: str | None = None


def digest_of(user_ids: Sequence[str]) -> str:
    """What tells one list of users from another: a SHA-256, in hexadecimal."""
    return hashlib.sha256("\n".join(user_ids).encode()).hexdigest()


def stage(cursor: psycopg.Cursor[Any], new: NewJob, user_ids: Sequence[str]) -> None:
    """Store the list, in the caller's transaction; the very same list again is there already.

    Raises AlreadyExists when the name stands for another list or template.
    """
    digest = bytes.fromhex(digest_of(user_ids))
    values = {
        "tenant": new.realm.tenant_id,
        "app": new.realm.app_id,
        "distribution": new.distribution_id,
        "stream": stream_id(new.realm, "distribution", new.distribution_id),
        "template": new.template_id,
        "users": len(user_ids),
        "sha256": digest,
        "actor": new.actor,
        "correlation": new.correlation_id,
        "trace": new.traceparent,
    }
    row = cursor.execute(_INSERT, values).fetchone()
    if row is None:
        known = cursor.execute(_KNOWN, values).fetchone()
        if known is None or (known[0], bytes(known[1])) != (new.template_id, digest):
            raise AlreadyExists(f"There is another distribution {new.distribution_id}.")
        return
    with cursor.copy("COPY distribution_chunks (job, first_row, user_ids) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "int4", "text[]"])
        for start in range(0, len(user_ids), CHUNK_USERS_MAX):
            copy.write_row((row[0], start + 1, list(user_ids[start : start + CHUNK_USERS_MAX])))


def discard_unstarted(cursor: psycopg.Cursor[Any], realm: Realm, distribution_id: str) -> None:
    """Forget a list whose distribution was not started after all."""
    cursor.execute(_DISCARD, (stream_id(realm, "distribution", distribution_id),))


def find(cursor: psycopg.Cursor[Any], realm: Realm, distribution_id: str) -> Job | None:
    """One distribution. One that was staged and not (yet) started is none."""
    cursor.execute(f"{_SELECT} WHERE d.stream = %s", (stream_id(realm, "distribution", distribution_id),))
    job = _job(row) if (row := cursor.fetchone()) else None
    return None if job is None or job.status == "staged" else job


def page(cursor: psycopg.Cursor[Any], realm: Realm | None, *, before: int | None, limit: int) -> list[Job]:
    """Started distributions, of one realm or of all, the latest first, from before a job's number on."""
    values = {"tenant": realm and realm.tenant_id, "app": realm and realm.app_id, "before": before, "limit": limit}
    cursor.execute(f"{_SELECT} {_PAGE}", values)
    return [_job(row) for row in cursor]


def open_jobs(cursor: psycopg.Cursor[Any]) -> list[Job]:
    """Everything whose list is still kept, the oldest first."""
    cursor.execute(f"{_SELECT} WHERE d.finished_at IS NULL ORDER BY d.job")
    return [_job(row) for row in cursor]


def others_run(cursor: psycopg.Cursor[Any], job: Job) -> bool:
    """Whether there is another distribution to be worked on."""
    return any(each.status == "running" for each in open_jobs(cursor) if each.number != job.number)


def chunks(cursor: psycopg.Cursor[Any], job: Job, first_row: int, limit: int) -> list[tuple[int, list[str]]]:
    """The next chunks of a list, from a row on: (first row, users)."""
    sql = "SELECT first_row, user_ids FROM distribution_chunks WHERE job = %s AND first_row >= %s ORDER BY 1 LIMIT %s"
    cursor.execute(sql, (job.number, first_row, limit))
    return cursor.fetchall()


def finish(cursor: psycopg.Cursor[Any], job: Job) -> None:
    """Delete the list of a distribution that is over, or that was staged long ago and never started."""
    if job.is_over:
        cursor.execute("DELETE FROM distribution_chunks WHERE job = %s", (job.number,))
        cursor.execute("UPDATE distributions SET finished_at = clock_timestamp() WHERE job = %s", (job.number,))
    elif job.status == "staged":
        age = f"{NEVER_STARTED_KEPT_HOURS} hours"
        cursor.execute(f"{_DISCARD} AND staged_at < clock_timestamp() - %s::interval", (job.stream, age))


def try_lock(cursor: psycopg.Cursor[Any], job: Job) -> bool:
    """Become the one that works on it, until :func:`unlock` or the end of the session."""
    row = cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, job.number)).fetchone()
    return bool(row and row[0])


def unlock(cursor: psycopg.Cursor[Any], job: Job) -> None:
    """Let somebody else work on it."""
    cursor.execute("SELECT pg_advisory_unlock(%s, %s)", (LOCK_CLASS, job.number))


def refusals(
    cursor: psycopg.Cursor[Any], realm: Realm, distribution_id: str, after_version: int, limit: int
) -> tuple[list[tuple[int, str, str, str]], int | None]:
    """Refused rows (row, user, code, detail) in the order of the list, and where to read on (None: that was all).

    ``limit`` counts chunks with refusals, each of at most CHUNK_USERS_MAX rows.
    """
    stream = stream_id(realm, "distribution", distribution_id)
    found = cursor.execute(_REFUSALS, (stream, after_version, limit)).fetchall()
    rows = [row for _, state in found for row in _refused_rows(bytes(state))]
    return rows, found[-1][0] if len(found) == limit else None


def _refused_rows(state: bytes) -> Iterator[tuple[int, str, str, str]]:
    by_reason = orjson.loads(state)["data"]["refused"]
    yield from sorted(
        (row, user_id, each["code"], each["detail"])
        for each in by_reason
        for row, user_id in zip(each["rows"], each["user_ids"], strict=True)
    )


def _job(row: Sequence[Any]) -> Job:
    *told, topic, state = row
    last = orjson.loads(bytes(state)) if state is not None else {"data": {}}
    data = last["data"]
    number, tenant_id, app_id, distribution_id, template_id, users, actor, correlation_id, trace, staged_at = told
    stands = data.get("progress", {"next_row": 1, "issued": 0, "refused": 0})
    return Job(
        number=number,
        realm=Realm(tenant_id, app_id),
        distribution_id=distribution_id,
        template_id=template_id,
        users=users,
        actor=actor,
        correlation_id=correlation_id,
        traceparent=trace,
        staged_at=staged_at,
        status=_STATUS_AFTER.get(topic, "running"),
        next_row=stands["next_row"],
        issued=stands["issued"],
        refused=stands["refused"],
        reason=data.get("reason") or None,
        changed_at=datetime.fromisoformat(last["rec"]) if "rec" in last else None,
    )


_INSERT = """
    INSERT INTO distributions (tenant_id, app_id, distribution_id, stream, template_id, users, users_sha256, actor,
                               correlation_id, traceparent)
    VALUES (%(tenant)s, %(app)s, %(distribution)s, %(stream)s, %(template)s, %(users)s, %(sha256)s, %(actor)s,
            %(correlation)s, %(trace)s)
    ON CONFLICT DO NOTHING RETURNING job
"""

_KNOWN = """
    SELECT template_id, users_sha256 FROM distributions
    WHERE tenant_id = %(tenant)s AND app_id = %(app)s AND distribution_id = %(distribution)s
"""

_DISCARD = """
    DELETE FROM distributions AS d
    WHERE d.stream = %s AND NOT EXISTS (SELECT FROM stored_events AS e WHERE e.originator_id = d.stream)
"""

# The last event of a distribution's stream says where it stands: one probe from the end of the stream.
_SELECT = """
    SELECT d.job, d.tenant_id, d.app_id, d.distribution_id, d.template_id, d.users, d.actor, d.correlation_id,
           d.traceparent, d.staged_at, last.topic, last.state
    FROM distributions AS d
    LEFT JOIN LATERAL (
        SELECT e.topic, e.state FROM stored_events AS e
        WHERE e.originator_id = d.stream ORDER BY e.originator_version DESC LIMIT 1
    ) AS last ON true
"""

_PAGE = """
    WHERE last.topic IS NOT NULL
    AND (%(tenant)s::text IS NULL OR (d.tenant_id = %(tenant)s AND d.app_id = %(app)s))
    AND (%(before)s::integer IS NULL OR d.job < %(before)s)
    ORDER BY d.job DESC LIMIT %(limit)s
"""

_REFUSALS = """
    SELECT originator_version, state FROM stored_events
    WHERE originator_id = %s AND originator_version > %s AND topic = 'distribution.users_refused.v1'
    ORDER BY originator_version LIMIT %s
"""
