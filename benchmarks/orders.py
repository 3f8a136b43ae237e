"""Orders with a coupon over HTTP: ``tessera serve``, the saga worker and PostgreSQL share the machine with the clients.

``python -m benchmarks.orders [--clients 16] [--seconds 5] [--pay] [--budget]``. Every client keeps its connection and
places an order with a coupon of its own (claimed before); the answer says what is held. Told per order: processor time
of the API, the saga worker and PostgreSQL, and how many transactions PostgreSQL committed, until the saga worker has
heard everything.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.http_client import closed_loop, post
from benchmarks.http_servers import Running, api, settings_for
from benchmarks.postgres import Instance
from benchmarks.processor import Meter, micros_each, of_threads
from infra.processes import LOOPBACK, free_port, wait_until

CHUNK: Final = 500
TEMPLATE: Final = "ten-off"
BUDGET: Final = "campaign"
STOCK: Final = 10_000_000
DRAIN_SECONDS: Final = 120.0
STOP_SECONDS: Final = 45.0


@contextmanager
def saga_worker(dsn: str, folder: Path) -> Iterator[int]:
    """``tessera worker sagas`` as a process of its own."""
    env = settings_for(dsn, follower_metrics_port=free_port()).to_env()
    with (folder / "sagas.log").open("wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "worker", "sagas"],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


class Shop:
    """What the clients need: a template, claimed coupons, and orders that use them."""

    def __init__(self, running: Running, *, budget: bool) -> None:
        self._running = running
        self._budget = budget
        self._users = count()
        self._orders = count()
        self._coupons: list[tuple[str, str]] = []
        self.placed: list[str] = []

    def open(self) -> None:
        """A template of ten percent, with a budget if one is wanted."""
        if self._budget:
            self._ask("/v1/budgets", {"budget_id": BUDGET, "currency": "EUR", "limit_minor": 10**12})
        terms = {
            "name": "ten off",
            "campaign_id": "c1",
            "currency": "EUR",
            "discount": {"kind": "percent_off", "percent_bp": 1_000},
            "stock": STOCK,
            "claim_from": "2020-01-01T00:00:00Z",
            "claim_until": "2140-01-01T00:00:00Z",
            "validity": {"kind": "after_claim", "duration_seconds": 90 * 86_400},
            "budget_ids": [BUDGET] if self._budget else [],
        }
        self._ask("/v1/templates", {"template_id": TEMPLATE, "terms": terms})
        self._ask(f"/v1/templates/{TEMPLATE}/activate", {})

    def claim(self, coupons: int) -> None:
        """Claim so many coupons, each by a user of its own."""
        while len(self._coupons) < coupons:
            users = [f"u{next(self._users):08d}" for _ in range(CHUNK)]
            items = [{"type": "claim_coupon", "data": {"template_id": TEMPLATE, "user_id": user}} for user in users]
            told = self._ask("/v1/commands", {"commands": items})
            self._coupons += [
                (user, each["data"]["coupon_id"]) for user, each in zip(users, told["answers"], strict=True)
            ]

    def order(self) -> bytes:
        """The next order."""
        return post("/v1/orders", json.dumps(self._next()).encode(), self._running.token)

    def place(self, orders: int) -> None:
        """Place so many orders, many at a time."""
        while len(self.placed) < orders:
            chunk = [self._next() for _ in range(min(CHUNK, len(self._coupons)))]
            self._ask("/v1/commands", {"commands": [{"type": "place_order", "data": each} for each in chunk]})

    def _next(self) -> dict[str, Any]:
        user, coupon = self._coupons.pop()
        order_id = f"o{next(self._orders):08d}"
        self.placed.append(order_id)
        return {
            "order_id": order_id,
            "user_id": user,
            "currency": "EUR",
            "coupon_ids": [coupon],
            "shipping_minor": 490,
            "lines": [
                {"line_id": "1", "sku": "tea", "category": "drinks", "quantity": 2, "unit_price_minor": 1_250},
                {"line_id": "2", "sku": "cup", "category": "kitchen", "unit_price_minor": 990},
                {"line_id": "3", "sku": "pot", "category": "kitchen", "unit_price_minor": 3_900},
            ],
        }

    def payment(self) -> bytes:
        """A payment of the next order that was placed."""
        order_id = self.placed.pop()
        body = {
            "payment_id": f"p-{order_id}", "order_id": order_id, "status": "succeeded", "currency": "EUR",
            "amount_minor": 490 + 7_390 - 739,
        }  # fmt: skip
        return post("/v1/payments", json.dumps(body).encode(), self._running.token)

    def _ask(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self._running.port}{path}",
            json.dumps(body).encode(),
            {"authorization": f"Bearer {self._running.token}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{path}: {error.read().decode()}") from None


class Store:
    """What PostgreSQL says of itself."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)

    def value(self, sql: str) -> Any:
        """One value."""
        row = self._connection.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]

    def lag(self) -> int:
        """How many events the sagas have not heard."""
        return int(
            self.value(
                "SELECT (SELECT coalesce(max(notification_id), 0) FROM stored_events)"
                " - coalesce((SELECT log_offset FROM follower_positions WHERE follower = 'sagas'), 0)"
            )
        )

    def busy(self) -> bool:
        """Whether sagas have something to hear or to send."""
        return self.lag() > 0 or self.value("SELECT count(*) FROM saga_outbox") > 0

    def commits(self) -> int:
        """Transactions committed in this database (a little late)."""
        self._connection.execute("SELECT pg_stat_clear_snapshot()")
        return int(self.value("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))


def measure(
    name: str, running: Running, request: Callable[[], bytes], store: Store, roots: dict[str, int], asked: Any
) -> None:
    """One load, and what it cost until the sagas had heard all of it."""
    wait_until(lambda: not store.busy(), timeout_seconds=DRAIN_SECONDS, every_seconds=0.2)
    time.sleep(1.1)  # Statistics of PostgreSQL's own come late.
    meter, commits, threads = Meter(roots), store.commits(), of_threads(roots["API"])
    events = int(store.value("SELECT coalesce(max(notification_id), 0) FROM stored_events"))
    wal = store.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    own = time.process_time()
    served = closed_loop(
        running.port, request, connections=asked.clients, seconds=asked.seconds, warm_seconds=asked.warm
    )
    own = time.process_time() - own
    lag = store.lag()
    began = time.perf_counter()
    drained = wait_until(lambda: not store.busy(), timeout_seconds=DRAIN_SECONDS, every_seconds=0.02)
    drain = time.perf_counter() - began
    used, after = meter.used(), of_threads(roots["API"])
    time.sleep(1.1)
    n = served.requests
    stored = int(store.value("SELECT coalesce(max(notification_id), 0) FROM stored_events")) - events
    wal = store.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn") - wal
    micros = micros_each(used, n)
    loop = (after[roots["API"]] - threads[roots["API"]]).total * 1e6 / n
    print(
        f"{name:9} {served.per_second:7.0f}/s  p50 {served.latencies.p50_ms:6.1f} p99 {served.latencies.p99_ms:6.1f} ms"
        f"  n {n}  lag {lag} drain {drain:.2f}s{'' if drained else ' NOT DRAINED'}"
    )
    print(
        "          µs each: "
        + ", ".join(f"{key} {value:.0f}" for key, value in micros.items())
        + f" (API loop {loop:.0f}), client {own * 1e6 / n:.0f}, all {sum(micros.values()) + own * 1e6 / n:.0f}; "
        f"{(store.commits() - commits) / n:.2f} transactions, {stored / n:.1f} events, {wal / n:.0f} WAL bytes",
        flush=True,
    )


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--coupons", type=int, default=12_000)
    parser.add_argument("--pay", action="store_true", help="and pay for them")
    parser.add_argument("--budget", action="store_true", help="one budget for all coupons")
    asked = parser.parse_args()
    with ExitStack() as stack:
        postgres = stack.enter_context(Instance())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dsn = stack.enter_context(postgres.database())
        running = stack.enter_context(api(dsn, folder))
        sagas = stack.enter_context(saga_worker(dsn, folder))
        store = Store(dsn)
        shop = Shop(running, budget=asked.budget)
        shop.open()
        shop.claim(asked.coupons)
        roots = {"API": running.pid, "sagas": sagas, "PostgreSQL": postgres.pid}
        measure("order", running, shop.order, store, roots, asked)
        if asked.pay:
            shop.claim(asked.coupons)
            shop.place(asked.coupons)
            measure("payment", running, shop.payment, store, roots, asked)


if __name__ == "__main__":
    main()
