"""P3: bulk issue, beside COPY of the very rows that it stored into the same tables."""

from time import perf_counter
from typing import Final

import psycopg
from psycopg import sql

from benchmarks.bench import Bench, Figure, Outcome, Target, in_turn, ratio
from benchmarks.parts import Engines, engines
from benchmarks.verification import verify
from benchmarks.workloads import HOT

USERS_PER_SECOND_ASKED: Final = 50_000
COPIED: Final = ("stored_events", "guard_counts", "command_log")
BLOCK_BYTES: Final = 1 << 20


class Copies:
    """Rows of one database as COPY takes them, and another database with the same tables to put them into."""

    def __init__(self, source: str, goal: str) -> None:
        self._source = source
        self._goal = goal
        self._seen = 0
        self._rows: dict[str, bytes] = {}
        self.events = 0

    def remember(self, users: int, name: str) -> None:
        """Read the rows that one distribution stored."""
        conditions = {
            "stored_events": sql.SQL("notification_id > {}").format(self._seen),
            "guard_counts": sql.SQL("key LIKE {}").format(f"claims:{HOT}:{name}-%"),
            "command_log": sql.SQL("log_offset > {}").format(self._seen),
        }
        with psycopg.connect(self._source) as connection, connection.cursor() as cursor:
            for table, condition in conditions.items():
                query = sql.SQL("COPY (SELECT * FROM {} WHERE {}) TO STDOUT (FORMAT binary)")
                with cursor.copy(query.format(sql.Identifier(table), condition)) as copy:
                    self._rows[table] = b"".join(bytes(block) for block in copy)
            cursor.execute(
                "SELECT count(*), max(notification_id) FROM stored_events WHERE notification_id > %s", (self._seen,)
            )
            self.events, self._seen = cursor.fetchone() or (0, 0)
        assert self.events >= users

    def put(self) -> Figure:
        """Events a second: all rows in one transaction, committed."""
        started = perf_counter()
        with psycopg.connect(self._goal) as connection, connection.cursor() as cursor:
            for table, rows in self._rows.items():
                query = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(sql.Identifier(table))
                with cursor.copy(query) as copy:
                    for start in range(0, len(rows), BLOCK_BYTES):
                        copy.write(rows[start : start + BLOCK_BYTES])
        size = sum(map(len, self._rows.values()))
        return Figure(self.events / (perf_counter() - started), {"events": self.events, "bytes": size})


def run(bench: Bench) -> Outcome:
    """Each round issues to new users, then copies what that round stored."""
    users = max(2_000, round(USERS_PER_SECOND_ASKED * bench.effort.seconds))
    with (
        bench.postgres.database() as dsn,
        bench.postgres.database() as goal,
        engines(bench, dsn, runs_on="thread") as ours,
    ):
        bench.say("preparing")
        ours.distribute("warm", HOT, 1_000)
        copies = Copies(dsn, goal)
        copies.remember(1_000, "warm")
        copies.put()
        round_names = (f"round-{number}" for number in range(1_000))
        sides = in_turn(
            bench,
            {
                "bulk issue": lambda: _issue(ours, copies, next(round_names), users),
                "COPY of the same rows": copies.put,
            },
            unit="events/s",
            alternate=False,
        )
        return verify(bench, ratio(sides, users=users), dsn)


def _issue(ours: Engines, copies: Copies, name: str, users: int) -> Figure:
    figure = ours.distribute(name, HOT, users)
    copies.remember(users, name)
    return Figure(figure.value * copies.events / users, figure.details)


TARGET = Target(
    key="p3",
    title="bulk issue events/s ÷ COPY of the same rows",
    how="in process: a list staged, started and carried out by the runner in chunks of 1,000 users ÷ COPY (binary, one "
    "transaction) of the events, counters and answers that it stored, into the same tables with the same indexes",
    run=run,
    target=0.5,
    moonshot=0.8,
    others="0.17 libraries",
)
