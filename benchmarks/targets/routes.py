"""The other hot routes over HTTP, beside the claim (P7) and the order (P16): lock, redeem, quote, batches of claims."""

import json
from contextlib import ExitStack
from itertools import count
from statistics import median
from typing import Any, Final

from benchmarks.bench import Bench, Outcome, Side, Target
from benchmarks.http_client import UnexpectedAnswer, post
from benchmarks.http_servers import Running, api
from benchmarks.targets.http import Server, make_template, send
from benchmarks.targets.p16_orders import Shop, cart
from benchmarks.verification import verify
from benchmarks.workloads import HOT

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 8
CLAIMS_PER_BATCH: Final = 100
SENT_AT_ONCE: Final = 500
COUPONS_PER_SECOND: Final = 25_000  # More than are used; who runs out of them ends the measurement with an error.


class Counter:
    """Somebody at a counter of a shop whose checkout is its own: coupons are locked for an order, then redeemed."""

    def __init__(self, running: Running, shop: Shop) -> None:
        self._running = running
        self._shop = shop
        self._locked: list[str] = []
        self._users = count()

    def stock(self, coupons: int, *, locked: int = 0) -> None:
        """Have so many claimed coupons at hand, and so many locked ones."""
        self._shop.claim(coupons + max(0, locked - len(self._locked)))
        while len(self._locked) < locked:
            taken = [self._shop.take()[1] for _ in range(SENT_AT_ONCE)]
            asked = [{"type": "lock_coupon", "data": {"coupon_id": each, "order_id": order_of(each)}} for each in taken]
            told = send(self._running, "/v1/commands", {"commands": asked})
            if refused := [answer for answer in told["answers"] if answer["status"] != "accepted"]:
                raise UnexpectedAnswer(repr(refused[0]))
            self._locked += taken

    def lock(self) -> bytes:
        """A claimed coupon, for an order of its own."""
        _, coupon = self._shop.take()
        return self._post(f"/v1/coupons/{coupon}/lock", {"order_id": order_of(coupon), "discount_minor": 100})

    def redeem(self) -> bytes:
        """A locked coupon."""
        coupon = self._locked.pop()
        return self._post(f"/v1/coupons/{coupon}/redeem", {"order_id": order_of(coupon)})

    def quote(self) -> bytes:
        """What an order with this coupon would cost; it stays as it is."""
        return self._post("/v1/orders/quote", cart(*self._shop.look()))

    def claims(self) -> bytes:
        """A batch of claims by new users."""
        users = (f"batch-{next(self._users):09}" for _ in range(CLAIMS_PER_BATCH))
        asked = [{"type": "claim_coupon", "data": {"template_id": HOT, "user_id": user}} for user in users]
        return self._post("/v1/commands", {"commands": asked})

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        return post(path, json.dumps(body).encode(), self._running.token)


def order_of(coupon: str) -> str:
    """The order that a coupon is locked for."""
    return f"o-{coupon}"


def run(bench: Bench) -> Outcome:
    """Each route in each round; what it takes is made before."""
    seconds = bench.effort.seconds + bench.effort.warm_seconds
    coupons = round(COUPONS_PER_SECOND * seconds)
    with bench.postgres.database() as dsn:
        with ExitStack() as stack:
            running = stack.enter_context(api(dsn, bench.postgres.folder))
            make_template(running)
            counter = Counter(running, Shop(running))
            routes = {
                "lock": Server(bench, running, counter.lock, stores=True),
                "redeem": Server(bench, running, counter.redeem, stores=True),
                "quote": Server(bench, running, counter.quote, stores=True),
                f"batch of {CLAIMS_PER_BATCH} claims": Server(bench, running, counter.claims, stores=True),
            }
            sides = {name: Side(name, "requests/s") for name in routes}
            for number in range(bench.effort.rounds):
                for name, server in routes.items():
                    bench.say(f"round {number + 1} of {bench.effort.rounds}: {name}")
                    counter.stock(coupons, locked=coupons if name == "redeem" else 0)
                    bench.postgres.checkpoint()
                    server.connections = BATCH_CONNECTIONS if name.startswith("batch") else CONNECTIONS
                    sides[name].rounds.append(server.measure())
        rates = sides["lock"].values
        return verify(bench, Outcome(median(rates), rates, list(sides.values())), dsn)


TARGET: Final = Target(
    key="routes",
    title="locks/s over HTTP; redeem, quote and batches of claims beside them",
    how="`tessera serve`, 64 connections (8 for batches of 100 claims); claims are P7, orders P16",
    run=run,
    unit="",
    by_default=False,
)
