"""How far an import has come: cursor, tallies and fingerprints in PostgreSQL, written together after each chunk."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from contracts.identity import Realm
from infra.imports.errors import AlreadyRunning
from infra.imports.pace import Pace
from infra.imports.source import Fingerprint
from infra.imports.tally import Tally
from infra.postgres.connections import Timeouts, connect, translated

# The row that holds the cursor of the whole import, beside one row per statement.
_WHOLE: Final = "*"
_PATIENCE: Final = Timeouts(lock_seconds=2.0)  # A server needs a moment to notice that whoever had the lock is gone.


@dataclass(frozen=True, slots=True)
class Sources:
    """What the import reads: the mapping's digest and each file's fingerprint."""

    mapping_digest: str
    files: Mapping[str, Fingerprint]

    def changes_to(self, now: "Sources") -> list[str]:
        """In words, what is not as it was."""
        changes = ["the mapping's statements"] if self.mapping_digest != now.mapping_digest else []
        for name in sorted({*self.files, *now.files}):
            before, after = self.files.get(name), now.files.get(name)
            if before != after:
                sizes = " -> ".join(f"{file.size_bytes:,} bytes" if file else "absent" for file in (before, after))
                changes.append(f"file {name} ({sizes})")
        return changes

    def as_json(self) -> dict[str, Any]:
        """What is stored."""
        return {"mapping": self.mapping_digest, "files": {name: asdict(file) for name, file in self.files.items()}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Sources":
        """The inverse of :meth:`as_json`."""
        files = {name: Fingerprint(**file) for name, file in stored["files"].items()}
        return cls(stored["mapping"], files)


@dataclass(slots=True)
class Progress:
    """``cursor`` is the last place of the plan whose rows are all settled; ``tallies`` counts exactly those.

    ``clock`` is the furthest business time that the import has set; ``resumed`` that an earlier run began it.
    """

    cursor: int
    sources: Sources
    tallies: dict[str, Tally] = field(default_factory=dict)
    clock: datetime | None = None
    resumed: bool = False


class ProgressStore:
    """One import's rows of ``import_progress``, held by one process at a time."""

    def __init__(self, connection: psycopg.Connection[Any], realm: Realm, import_id: str) -> None:
        self._connection = connection
        self._realm = realm
        self._key = (realm.tenant_id, realm.app_id, import_id)

    def pace(self) -> Pace:
        """What waits for this realm's sagas, on the same connection."""
        return Pace(self._connection, self._realm)

    def load(self) -> Progress | None:
        """Where it stands, None when it never began. Raises StoreUnavailable."""
        with translated():
            rows = self._connection.execute(
                "SELECT statement, rows_done, state FROM import_progress "
                "WHERE tenant_id = %s AND app_id = %s AND import_id = %s",
                self._key,
            ).fetchall()
        found = {statement: (rows_done, state) for statement, rows_done, state in rows}
        if _WHOLE not in found:
            return None
        cursor, state = found.pop(_WHOLE)
        clock = datetime.fromisoformat(state["clock"]) if state.get("clock") else None
        tallies = {statement: Tally.from_json(tally) for statement, (_, tally) in found.items()}
        return Progress(cursor, Sources.from_json(state), tallies, clock)

    def save(self, progress: Progress) -> None:
        """Store cursor and tallies together. Raises StoreUnavailable."""
        whole = {**progress.sources.as_json(), "clock": progress.clock.isoformat() if progress.clock else None}
        rows = [(*self._key, _WHOLE, progress.cursor, Jsonb(whole))]
        for statement, tally in progress.tallies.items():
            rows.append((*self._key, statement, tally.rows_total, Jsonb(tally.as_json())))
        with translated(), self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO import_progress (tenant_id, app_id, import_id, statement, rows_done, state) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, app_id, import_id, statement) "
                "DO UPDATE SET rows_done = excluded.rows_done, state = excluded.state, updated_at = clock_timestamp()",
                rows,
            )

    def rows_set_aside(self) -> set[tuple[str, str]]:
        """(statement, row key) of every row that the event store already holds as set aside. Raises StoreUnavailable.

        Only asked when an import is taken up again: its chunks may be cut differently than before.
        """
        with translated():
            found = self._connection.execute(
                "SELECT data ->> 'statement', line ->> 'row' FROM events, jsonb_array_elements(data -> 'rows') AS line "
                "WHERE type = 'import.rows_set_aside.v1' AND tenant_id = %s AND app_id = %s AND key = %s",
                self._key,
            ).fetchall()
        return {(statement, row) for statement, row in found}


@contextmanager
def progress_store(dsn: str, realm: Realm, import_id: str) -> Iterator[ProgressStore]:
    """The only holder of this import. Raises AlreadyRunning when another process is, and StoreUnavailable."""
    with translated(), connect(dsn, _PATIENCE, name="import", autocommit=True) as connection:
        name = f"import/{realm.key}/{import_id}"
        # A session's lock: it ends with the process, however it ends, and as soon as the server has noticed.
        try:
            connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
        except psycopg.errors.LockNotAvailable:
            raise AlreadyRunning(f"import {import_id} is being worked on by another process") from None
        yield ProgressStore(connection, realm, import_id)
