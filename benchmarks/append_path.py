"""How many events a second the append path takes, by batch size, beside the library's own insert.

``python -m benchmarks.append_path [--dsn DSN] [--seconds 5]``; without a DSN it starts an embedded server.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import count

import psycopg
from eventsourcing.postgres import PostgresApplicationRecorder

from command.ports import Batch, CommandKey, LoggedAnswer, NewEvent
from contracts.envelope import Metadata
from contracts.events import CouponClaimed
from contracts.identity import Realm, stream_id
from contracts.terms import CouponRef
from infra.embedded import EmbeddedStack
from infra.postgres.connections import DEFAULT_TIMEOUTS
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.postgres.mapper import EventMapper
from infra.postgres.migrations import migrate
from infra.postgres.recorder import datastore

REALM = Realm("bench", "shop")
BATCH_EVENTS = (1, 64, 256, 1_000)
SETTINGS = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size")

Append = Callable[[int], object]


def claims(numbers: Iterator[int], size: int, now: datetime) -> list[NewEvent]:
    """Fresh coupons, one event each: a realistic payload, a stream of its own."""
    about = CouponRef(
        template_id="summer", terms_version=1, campaign_id="c-2026", shop_id=None, source="platform", user_id="u",
        currency="GBP",
    )  # fmt: skip
    return [_claim(f"c{number:024d}", _of_user(about, number), now) for number in (next(numbers) for _ in range(size))]


def _of_user(about: CouponRef, number: int) -> CouponRef:
    """Another user for every coupon."""
    return about.model_copy(update={"user_id": f"user-{number}"})


def _claim(coupon_id: str, about: CouponRef, now: datetime) -> NewEvent:
    event = CouponClaimed(
        coupon_id=coupon_id, about=about, channel="direct", reference=None, nth=1, valid_from=now, valid_until=now
    )
    metadata = Metadata(f"e-{coupon_id}", now, now, "key:bench", f"cmd-{coupon_id}", "corr")
    return NewEvent(stream_id(REALM, "coupon", coupon_id), 1, event, metadata)


def answers(events: list[NewEvent]) -> list[LoggedAnswer]:
    """The command row behind each event."""
    return [
        LoggedAnswer(CommandKey(REALM, new.metadata.command_id), "coupon.claim.v1", "0" * 64, "accepted", "ok", "", {})
        for new in events
    ]


def measure(append: Append, size: int, seconds: float) -> float:
    """Events a second, over whole batches."""
    append(size)  # Warm: connections, prepared statements.
    started, stored = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        append(size)
        stored += size
    return stored / elapsed


def paths(dsn: str, stack: ExitStack) -> dict[str, Append]:
    """What is compared: each stores so many fresh events durably."""
    log = stack.enter_context(closing(PostgresEventLog(dsn)))
    store = stack.enter_context(closing(datastore(dsn, DEFAULT_TIMEOUTS, name="bench")))
    library, mapper, numbers = PostgresApplicationRecorder(store), EventMapper(), count(1)

    def events_only(size: int) -> None:
        with log.appending() as tx:
            tx.append(Batch(events=claims(numbers, size, tx.store_now)))

    def with_answers(size: int) -> None:
        with log.appending() as tx:
            events = claims(numbers, size, tx.store_now)
            logged = answers(events)
            tx.answers([answer.key for answer in logged])  # As the engine asks before it decides.
            counts = {f"claims:summer:{new.stream}": 1 for new in events}
            tx.append(Batch(events=events, answers=logged, answer_events=list(range(size)), counts=counts))

    def librarys_insert(size: int) -> None:
        now = datetime.now(UTC)
        library.insert_events([mapper.to_stored_event(new) for new in claims(numbers, size, now)])

    def librarys_save(size: int) -> None:
        now = datetime.now(UTC)
        for new in claims(numbers, size, now):
            library.insert_events([mapper.to_stored_event(new)])

    return {
        "appending(): events": events_only,
        "appending(): look-up, events, answers, counters": with_answers,
        "library's insert_events, one call per batch": librarys_insert,
        "library's insert_events, one call per event": librarys_save,
    }


def codec(seconds: float) -> dict[str, float]:
    """Events a second through the mapper, one core."""
    mapper, now = EventMapper(), datetime.now(UTC)
    new = claims(count(1), 1, now)[0]
    stored = mapper.to_stored_event(new)
    return {
        "mapper, encode": measure(lambda size: [mapper.to_stored_event(new) for _ in range(size)], 1_000, seconds),
        "mapper, decode": measure(lambda size: [mapper.to_domain_event(stored) for _ in range(size)], 1_000, seconds),
    }


def read_rate(dsn: str) -> float:
    """Events a second through the feed, in batches of 1,000, decoded."""
    with closing(StoreFeed(dsn)) as feed:
        started, position, seen = time.perf_counter(), 0, 0
        while batch := feed.read(position, 1_000):
            position, seen = batch[-1].offset, seen + len(batch)
        return seen / (time.perf_counter() - started)


def report(dsn: str, seconds: float) -> None:
    """Measure and print."""
    with psycopg.connect(dsn) as connection:
        shown = {name: connection.execute(f"SHOW {name}".encode()).fetchone() for name in SETTINGS}
    print(f"{os.cpu_count()} cores; " + ", ".join(f"{name} {row[0]}" for name, row in shown.items() if row))
    print(f"\n{'events a second, by batch size':50}" + "".join(f"{size:>10,}" for size in BATCH_EVENTS))
    with ExitStack() as stack:
        for name, append in paths(dsn, stack).items():
            rates = [measure(append, size, seconds) for size in BATCH_EVENTS]
            print(f"{name:50}" + "".join(f"{rate:10,.0f}" for rate in rates), flush=True)
    print()
    for name, rate in {**codec(seconds), "feed, read and decode": read_rate(dsn)}.items():
        print(f"{name:50}{rate:10,.0f}")


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="an empty database; it is migrated and filled")
    parser.add_argument("--seconds", type=float, default=5.0, help="per figure")
    arguments = parser.parse_args()
    if arguments.dsn:
        migrate(arguments.dsn)
        report(arguments.dsn, arguments.seconds)
        return
    with EmbeddedStack(tempfile.mkdtemp(prefix="tessera-bench-"), ephemeral=True) as stack:
        migrate(stack.endpoints.postgres_dsn)
        report(stack.endpoints.postgres_dsn, arguments.seconds)


if __name__ == "__main__":
    main()
