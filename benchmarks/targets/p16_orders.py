"""P16: orders with a coupon placed over HTTP, beside the best shop that was measured on such a machine."""

import json
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from statistics import median
from typing import Any, Final

import psycopg

from benchmarks.bench import Bench, Figure, Outcome, Side, Target
from benchmarks.http_client import closed_loop, post
from benchmarks.http_servers import Running, api, worker
from benchmarks.processor import Meter, micros_each, of_threads
from benchmarks.targets.http import by_part, engine_so_far, make_template, send
from benchmarks.verification import verify
from benchmarks.workloads import HOT
from infra.processes import wait_until

BEST_SHOP_PER_SECOND: Final = 44.0
CLIENTS: Final = 16
CLAIMED_PER_REQUEST: Final = 500
COUPONS_PER_SECOND: Final = 3_000  # More than are ordered with; checked as they are taken.
QUIET_SECONDS: Final = 120.0


class Shop:
    """Users with a coupon each, and their orders of three lines."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._users = count()
        self._coupons: list[tuple[str, str]] = []

    def claim(self, coupons: int) -> None:
        """Claim until there are so many unused ones."""
        while len(self._coupons) < coupons:
            users = [f"u{next(self._users):08}" for _ in range(CLAIMED_PER_REQUEST)]
            asked = [{"type": "claim_coupon", "data": {"template_id": HOT, "user_id": user}} for user in users]
            told = send(self._running, "/v1/commands", {"commands": asked})
            self._coupons += [
                (user, answer["data"]["coupon_id"]) for user, answer in zip(users, told["answers"], strict=True)
            ]

    def take(self) -> tuple[str, str]:
        """A user with a coupon, which will be used."""
        return self._coupons.pop()

    def look(self) -> tuple[str, str]:
        """A user with a coupon, which stays."""
        return self._coupons[-1]

    def order(self) -> bytes:
        """The next order, with the coupon of its user."""
        user, coupon = self.take()
        order = {"order_id": f"o-{user}", **cart(user, coupon)}
        return post("/v1/orders", json.dumps(order).encode(), self._running.token)


def cart(user: str, coupon: str) -> dict[str, Any]:
    """Three lines and a coupon."""
    lines = [
        {"line_id": "1", "sku": "tea", "category": "drinks", "quantity": 2, "unit_price_minor": 1_250},
        {"line_id": "2", "sku": "cup", "category": "kitchen", "unit_price_minor": 990},
        {"line_id": "3", "sku": "pot", "category": "kitchen", "unit_price_minor": 3_900},
    ]
    return {"user_id": user, "currency": "GBP", "coupon_ids": [coupon], "shipping_minor": 490, "lines": lines}


def run(bench: Bench) -> Outcome:
    """Every answer says what the order holds: it comes after the saga's decision, durable as everything."""
    effort = bench.effort
    side = Side("orders with a coupon", "/s")
    with bench.postgres.database() as dsn:
        with ExitStack() as stack:
            bench.say("starting API and saga worker")
            running = stack.enter_context(api(dsn, bench.postgres.folder))
            sagas = stack.enter_context(worker("sagas", dsn, bench.postgres.folder))
            make_template(running)
            shop, roots = Shop(running), {"API": running.pid, "sagas": sagas, "PostgreSQL": bench.postgres.pid}
            for number in range(effort.rounds):
                bench.say(f"round {number + 1} of {effort.rounds}")
                shop.claim(round(COUPONS_PER_SECOND * (effort.seconds + effort.warm_seconds)))
                bench.postgres.checkpoint()
                side.rounds.append(_measure(bench, running, shop, dsn, roots))
        rounds = [value / BEST_SHOP_PER_SECOND for value in side.values]
        outcome = Outcome(median(rounds), rounds, [side])
        micros = side.middle.details["micros_each"]
        outcome.notes.append(", ".join(f"{name} {value:.0f} µs" for name, value in micros.items()) + " per order")
        return verify(bench, outcome, dsn)


def _measure(bench: Bench, running: Running, shop: Shop, dsn: str, roots: dict[str, int]) -> Figure:
    """One load; the cost is taken once the sagas have heard all of it."""
    effort = bench.effort
    _wait_until_quiet(dsn)
    meter, threads, engine = Meter(roots), of_threads(running.pid), engine_so_far(running)
    wal, events = bench.postgres.wal_bytes(), _events(dsn)
    served = closed_loop(
        running.port,
        shop.order,
        connections=CLIENTS,
        seconds=effort.seconds,
        warm_seconds=effort.warm_seconds,
        status=b"HTTP/1.1 201",
    )
    _wait_until_quiet(dsn)
    loop = of_threads(running.pid)[running.pid] - threads[running.pid]
    engine = engine_so_far(running).since(engine)
    micros = micros_each(by_part(meter.used(), loop, engine.time), served.requests)
    return Figure(
        served.per_second,
        {
            "clients": CLIENTS,
            "latencies": asdict(served.latencies),
            "batches": engine.batches,
            "micros_each": micros,
            "wal_bytes_each": (bench.postgres.wal_bytes() - wal) / served.requests,
            "events_each": (_events(dsn) - events) / served.requests,
        },
    )


def _events(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events").fetchone()
    return int(row[0]) if row else 0


def _wait_until_quiet(dsn: str) -> None:
    """Until the sagas have heard and sent everything. Raises TimeoutError."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def is_quiet() -> bool:
            row: tuple[Any, ...] | None = connection.execute(_QUIET).fetchone()
            return row is not None and bool(row[0])

        if not wait_until(is_quiet, timeout_seconds=QUIET_SECONDS):
            raise TimeoutError(f"the sagas were not done within {QUIET_SECONDS:.0f} s")


_QUIET: Final = """
    SELECT (SELECT coalesce(max(notification_id), 0) FROM stored_events)
        <= coalesce((SELECT log_offset FROM follower_positions WHERE follower = 'sagas'), 0)
        AND NOT EXISTS (SELECT FROM saga_outbox)
"""

TARGET = Target(
    key="p16",
    title="orders with coupon over HTTP/s ÷ the best shop (44/s)",
    how="`tessera serve` and `tessera worker sagas`, 16 clients, three lines and one coupon, answered with what they "
    "hold ÷ django-oscar 4.2, measured on such a machine",
    run=run,
    target=20.0,
    moonshot=100.0,
    others="oscar 44/s, Saleor 6.6/s, Medusa 70/s (module only)",
)
