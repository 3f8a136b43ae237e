"""Acknowledgements against the store: each is in the command log exactly once as it was told, its effect just once.

Whoever drives a load records what it was told, outside the processes that told it (:class:`Journal` for a file that
outlives the driver, too), and asks :func:`audit` afterwards; :func:`violations` holds the whole store against the
invariants. From a terminal::

    python -m tests.audit postgresql://… acknowledged.jsonl
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

import orjson
import psycopg

from command.handlers import KINDS
from contracts.envelope import Answer
from contracts.identity import Realm
from infra.postgres.log import PostgresEventLog
from infra.verify import Verifier, log_rows
from query.verify.raw import RawEvent

CHUNK_ROWS = 5_000
CLAIM, CLAIMED = "claim_coupon", "coupon.claimed.v1"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a caller was told, for good."""

    realm: Realm
    command_id: str
    status: str
    code: str
    data: Mapping[str, Any]
    offset: int

    @classmethod
    def of(cls, realm: Realm, command_id: str, answer: Answer) -> Self:
        """From an answer of an engine."""
        return cls(realm, command_id, answer.status, answer.code, answer.data, answer.position.offset)

    @property
    def told(self) -> tuple[str, str, Any, int]:
        """What has to be the same whoever asks, and however often."""
        return self.status, self.code, orjson.loads(orjson.dumps(self.data)), self.offset


class Journal:
    """Acknowledgements in a file, one JSON line each; :meth:`sync` makes those written so far outlive everything."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def write(self, told: Acknowledged) -> None:
        """Add one."""
        realm = {"tenant": told.realm.tenant_id, "app": told.realm.app_id}
        rest = {"id": told.command_id, "status": told.status, "code": told.code, "offset": told.offset}
        self._file.write(orjson.dumps({**realm, **rest, "data": told.data}) + b"\n")

    def sync(self) -> None:
        """Flush to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


def read_journal(path: Path) -> Iterator[Acknowledged]:
    """What a journal holds. A last line that was cut off was never synced: it is passed over."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                row = orjson.loads(line)
                realm = Realm(row["tenant"], row["app"])
                yield Acknowledged(realm, row["id"], row["status"], row["code"], row["data"], row["offset"])


@dataclass(slots=True)
class _Case:
    """One acknowledgement and what the store has of it."""

    told: Acknowledged
    command_type: str = ""
    logged: list[tuple[str, str, Any, int]] = field(default_factory=list)
    events: list[RawEvent] = field(default_factory=list)


Cases = dict[tuple[str, str, str], _Case]


def audit(dsn: str, acknowledged: Iterable[Acknowledged], *, after: int = 0) -> list[str]:
    """What does not hold, one sentence each; empty when everything told is stored exactly once.

    ``after``: the offset where the load began (events before it are not read). Two acknowledgements of one command
    must say the same.
    """
    findings: list[str] = []
    cases: Cases = {}
    for told in acknowledged:
        case = cases.setdefault((told.realm.tenant_id, told.realm.app_id, told.command_id), _Case(told))
        if case.told.told != told.told:
            findings.append(f"{told.command_id}: told {case.told.told}, and then {told.told}")
    with psycopg.connect(dsn) as connection:
        _find_answers(connection, cases)
        _find_events(connection, cases, after)
    for (_, _, command_id), case in cases.items():
        findings += [f"{command_id}: {fault}" for fault in _faults_of(case)]
    return findings


def violations(dsn: str) -> list[str]:
    """What `tessera verify` says of the log, the command log, the counters and the snapshots; empty when all hold."""
    with psycopg.connect(dsn, autocommit=True) as connection, closing(PostgresEventLog(dsn)) as log:
        report = Verifier(connection, log, KINDS, None, None).run()
    return [f"{each.invariant} {each.subject}: {each.detail}" for each in report.violations]


def _find_answers(connection: psycopg.Connection[Any], cases: Cases) -> None:
    remaining = iter(cases)
    while chunk := list(islice(remaining, CHUNK_ROWS)):
        rows = connection.execute(_SELECT_ANSWERS, tuple(map(list, zip(*chunk, strict=True))))
        for tenant, app, command_id, command_type, status, code, data, offset in rows:
            case = cases[tenant, app, command_id]
            case.command_type = command_type
            case.logged.append((status, code, orjson.loads(data), offset))


def _find_events(connection: psycopg.Connection[Any], cases: Cases, after: int) -> None:
    for event in log_rows.events(connection, after, log_rows.head(connection)):
        if (case := cases.get((event.tenant_id, event.app_id, event.command_id))) is not None:
            case.events.append(event)


def _faults_of(case: _Case) -> Iterator[str]:
    told, events = case.told, case.events
    if len(case.logged) != 1:
        yield f"acknowledged, but the command log has it {len(case.logged)} times"
    elif case.logged[0] != told.told:
        yield f"told {told.told}, but the command log says {case.logged[0]}"
    if len({event.event_id for event in events}) != len(events):
        yield f"an effect is stored twice: {[(event.offset, event.type) for event in events]}"
    if told.status == "refused" and events:
        yield f"refused with {told.code}, but it left {[(event.offset, event.type) for event in events]}"
    if told.status == "accepted" and events and events[-1].offset != told.offset:
        yield f"told that its effect is at {told.offset}, but it ends at {events[-1].offset}"
    if told.status == "accepted" and case.command_type == CLAIM:
        claimed = [event.data["coupon_id"] for event in events if event.type == CLAIMED]
        if claimed != [told.data["coupon_id"]]:
            yield f"told of coupon {told.data['coupon_id']}, but claimed {claimed}"


_SELECT_ANSWERS = """
    SELECT l.tenant_id, l.app_id, l.command_id, l.command_type, l.status, l.code, l.data::text, l.log_offset
    FROM command_log AS l
    JOIN unnest(%s::text[], %s::text[], %s::text[]) AS told (tenant_id, app_id, command_id)
    USING (tenant_id, app_id, command_id)
"""


def main(dsn: str, journal: str) -> int:
    """Audit a journal; 0 when all holds."""
    told = list(read_journal(Path(journal)))
    found = [*audit(dsn, told), *violations(dsn)]
    print(f"{len(told)} acknowledgements, {len(found)} findings", *found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
