"""P13: what a claim costs on a store of ten million events, beside one of ten thousand."""

from statistics import median
from time import perf_counter
from typing import Any, Final

import psycopg

from benchmarks.bench import Bench, Figure, Outcome, Target, in_turn, ratio
from benchmarks.parts import HOT_CLIENTS, Engines, engines, execute
from benchmarks.workloads import HOT

SMALL_EVENTS: Final = 10_000
PORTION_EVENTS: Final = 200_000
WORKLOAD: Final = "claims_hot"
RANDOM_IDS: Final = "claims_hot_random_ids"


def run(bench: Bench) -> Outcome:
    """Fill both stores as production does, open each with a new process, and claim on both in turn."""
    with bench.postgres.database() as small, bench.postgres.database() as large:
        filled = {"small": fill(bench, small, SMALL_EVENTS), "large": fill(bench, large, bench.effort.events)}
        bench.postgres.checkpoint()
        with engines(bench, small) as on_small, engines(bench, large) as on_large:
            for name, ours in (("small", on_small), ("large", on_large)):
                filled[name]["first_answers_seconds"] = _first_answers(ours)
            outcome = _growth(bench, on_large, on_small, WORKLOAD)
            under_random_ids = _growth(bench, on_large, on_small, RANDOM_IDS)
        outcome.details["filled"] = filled
        outcome.details["under_random_ids"] = under_random_ids.details
        outcome.notes.append(f"callers who give random ids: {under_random_ids.notes[0]}")
        outcome.notes += [_told(name, each) for name, each in filled.items()]
        return outcome


def _growth(bench: Bench, on_large: Engines, on_small: Engines, workload: str) -> Outcome:
    """The worse of wall and processor time, large ÷ small."""
    sides = in_turn(
        bench,
        {
            "claim on the large store": lambda: _micros(on_large, workload),
            "claim on the small store": lambda: _micros(on_small, workload),
        },
        unit="µs of wall time",
    )
    outcome = ratio(sides)
    on_large_micros, on_small_micros = (median(sum_of(figure) for figure in side.rounds) for side in sides)
    logged = [median(float(figure.details["wal_bytes_each"]) for figure in side.rounds) for side in sides]
    wall, processor = outcome.value, on_large_micros / on_small_micros
    outcome.value = max(wall, processor)
    outcome.details |= {"wall_ratio": wall, "processor_ratio": processor, "wal_bytes_each": logged}
    outcome.notes.append(
        f"the worse of wall time {wall:.2f}× and processor time {processor:.2f}× "
        f"({on_large_micros:.0f} ÷ {on_small_micros:.0f} µs); "
        f"{logged[0]:,.0f} ÷ {logged[1]:,.0f} bytes of write-ahead log each"
    )
    return outcome


def fill(bench: Bench, dsn: str, events: int) -> dict[str, Any]:
    """Bulk issue until there are so many events: half of them on the hot template, half over others.

    Chunks leave one row in the command log for a thousand coupons; single claims leave one each. Those are added
    with SQL, so that every index has the size that claims would have given it.
    """
    started, portion = perf_counter(), 0
    with engines(bench, dsn, runs_on="thread") as ours:
        while (stored := _events(dsn)) < events:
            bench.say(f"filling: {stored:,} of {events:,} events")
            template_id = HOT if portion % 2 == 0 else f"bulk-{portion}"
            ours.distribute(f"fill-{portion}", template_id, min(PORTION_EVENTS, max(1, events - stored)))
            portion += 1
    bench.say("filling: command log")
    execute(dsn, _COMMAND_LOG)
    seconds = perf_counter() - started
    execute(dsn, "ANALYZE")
    return {"events": stored, "fill_seconds": seconds, "sizes": sizes(dsn)}


def sizes(dsn: str) -> dict[str, int]:
    """Bytes of the database, and of each table with its indexes."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(_SIZES).fetchall()
    return {name: int(size) for name, size in rows}


def sum_of(figure: Figure) -> float:
    """Microseconds of processor time per claim: the engine's process and PostgreSQL."""
    micros = figure.details["micros_each"]
    return float(micros["engine 1"] + micros["PostgreSQL"])


def _micros(ours: Engines, workload: str) -> Figure:
    figure = ours.closed(workload, HOT_CLIENTS)
    return Figure(1e6 / figure.value, {**figure.details, "per_second": figure.value})


def _first_answers(ours: Engines) -> float:
    """From an empty cache: whatever it has to read before it can decide about the hot template."""
    started = perf_counter()
    ours.prepare(WORKLOAD, HOT_CLIENTS)
    return perf_counter() - started


def _events(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events").fetchone()
    return int(row[0]) if row else 0


def _told(name: str, filled: dict[str, Any]) -> str:
    gigabytes = filled["sizes"]["database"] / 1e9
    return (
        f"the {name} store: {filled['events']:,} events, filled in {filled['fill_seconds']:.0f} s, {gigabytes:.2f} GB; "
        f"a new process answers after {filled['first_answers_seconds']:.2f} s"
    )


_COMMAND_LOG: Final = """
    INSERT INTO command_log (tenant_id, app_id, command_id, command_type, content_hash, status, code, detail, data,
                             log_offset, answered_at)
    SELECT 'bench', 'shop', replace(gen_random_uuid()::text, '-', ''), 'claim_coupon', sha.hash, 'accepted', 'ok', '',
           jsonb_build_object('coupon_id', split_part(originator_id, '/', 4), 'template_id', 'hot', 'user_id',
                              'fill-u' || notification_id, 'valid_from', now()::text, 'valid_until', now()::text),
           notification_id, now()
    FROM stored_events, LATERAL (SELECT encode(sha256(originator_id::bytea), 'hex') AS hash) AS sha
    WHERE topic = 'coupon.claimed.v1'
"""

_SIZES: Final = """
    SELECT 'database', pg_database_size(current_database())
    UNION ALL SELECT 'stored_events', pg_total_relation_size('stored_events')
    UNION ALL SELECT 'guard_counts', pg_total_relation_size('guard_counts')
    UNION ALL SELECT 'command_log', pg_total_relation_size('command_log')
"""

TARGET = Target(
    key="p13",
    title="cost of a claim on a large store ÷ on a small one",
    how="in process, one hot template, 64 clients; 10,000,000 events (--events) ÷ 10,000; the worse of wall and "
    "processor time",
    run=run,
    target=1.2,
    moonshot=1.05,
    better="lower",
)
