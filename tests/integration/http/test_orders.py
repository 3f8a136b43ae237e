"""Orders over HTTP with the sagas running: placed, held, paid, refused, reopened; the caller learns the outcome."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from infra.bootstrap import write_side
from infra.sagas.worker import SagaWorker
from tests.integration.http.conftest import Server
from tests.integration.http.test_serving import active_template

LINES = [
    {"line_id": "a", "sku": "tea", "unit_price_minor": 5_000},
    {"line_id": "b", "sku": "cup", "unit_price_minor": 1_000},
]


@pytest.fixture
def sagas(server: Server) -> Iterator[SagaWorker]:
    """The sagas, as a second process would run them."""
    with write_side(server.settings) as side:
        worker = SagaWorker(server.settings.postgres_dsn, side.log, side.engine)
        worker.start()
        yield worker
        assert worker.stop()
        assert worker.halted is None


async def coupon_of(client: httpx.AsyncClient, user: str) -> str:
    """A claimed coupon, ten off."""
    await active_template(client, f"t-{user}")
    claimed = await client.post(f"/v1/templates/t-{user}/claims", json={"user_id": user})
    coupon_id: str = claimed.json()["data"]["coupon_id"]
    return coupon_id


def order(order_id: str, *coupon_ids: str, user: str = "u1") -> dict[str, Any]:
    """An order of sixty with these coupons."""
    return {
        "order_id": order_id,
        "user_id": user,
        "currency": "EUR",
        "coupon_ids": list(coupon_ids),
        "lines": LINES,
    }


@pytest.mark.usefixtures("sagas")
async def test_placing_an_order_answers_with_what_is_held(client: httpx.AsyncClient) -> None:
    coupon_id = await coupon_of(client, "u1")
    placed = await client.post("/v1/orders", json=order("o1", coupon_id), headers={"Idempotency-Key": "k1"})
    assert placed.status_code == 201, placed.text
    checkout = placed.json()["checkout"]
    assert (checkout["status"], checkout["discount_minor"], checkout["payable_minor"]) == ("ready", 1_000, 5_000)
    assert [line["discount_minor"] for line in checkout["lines"]] == [833, 167]
    again = await client.post("/v1/orders", json=order("o1", coupon_id), headers={"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()["checkout"]) == (200, checkout)


@pytest.mark.usefixtures("sagas")
async def test_an_order_that_cannot_be_held_learns_every_reason(client: httpx.AsyncClient) -> None:
    coupon_id = await coupon_of(client, "u1")
    assert (await client.post("/v1/orders", json=order("o1", coupon_id))).status_code == 201
    second = await client.post("/v1/orders", json=order("o2", coupon_id))
    assert second.status_code == 201, second.text
    checkout = second.json()["checkout"]
    assert checkout["status"] == "refused"
    assert [refusal["code"] for refusal in checkout["refusals"]] == ["already_locked"]


@pytest.mark.usefixtures("sagas")
async def test_a_cancelled_order_can_be_taken_up_again(client: httpx.AsyncClient) -> None:
    coupon_id = await coupon_of(client, "u1")
    await client.post("/v1/orders", json=order("o1", coupon_id))
    cancelled = await client.post("/v1/orders/o1/cancel", json={"reason": "changed my mind"})
    assert cancelled.status_code == 200, cancelled.text
    reopened = await client.post("/v1/orders/o1/reopen")
    assert reopened.status_code == 200, reopened.text
    assert (reopened.json()["checkout"]["status"], reopened.json()["checkout"]["attempt"]) == ("ready", 2)


async def test_an_order_is_held_with_its_placing_whether_or_not_sagas_run(client: httpx.AsyncClient) -> None:
    coupon_id = await coupon_of(client, "u1")
    placed = await client.post("/v1/orders", json=order("o1", coupon_id), headers={"Idempotency-Key": "k1"})
    assert (placed.status_code, placed.headers["location"]) == (201, "/v1/orders/o1")
    assert placed.json()["checkout"]["payable_minor"] == 5_000
    refused = await client.post("/v1/orders", json=order("o2", coupon_id))
    assert [each["code"] for each in refused.json()["checkout"]["refusals"]] == ["already_locked"]
    again = await client.post("/v1/orders", json=order("o1", coupon_id), headers={"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()["checkout"]) == (200, placed.json()["checkout"])
    told_again = await client.post("/v1/orders", json=order("o1", coupon_id))
    assert told_again.json()["checkout"] == placed.json()["checkout"]


async def test_orders_and_payments_of_one_batch_are_decided_with_it(client: httpx.AsyncClient) -> None:
    coupon_id = await coupon_of(client, "u1")
    payment = {"payment_id": "p1", "order_id": "o1", "status": "succeeded", "currency": "EUR", "amount_minor": 5_000}
    commands = [
        {"type": "place_order", "data": order("o1", coupon_id)},
        {"type": "report_payment", "data": payment},
        {"type": "place_order", "data": order("o2", coupon_id)},
    ]
    answers = (await client.post("/v1/commands", json={"commands": commands})).json()["answers"]
    assert [(answer["status"], answer["data"].get("order_id")) for answer in answers] == [
        ("accepted", "o1"), ("accepted", "o1"), ("accepted", "o2"),
    ]  # fmt: skip
    history = (await client.get(f"/v1/coupons/{coupon_id}/history")).json()
    assert [entry["type"] for entry in history["items"]] == [
        "coupon.claimed.v1", "coupon.locked.v1", "coupon.redeemed.v1",
    ]  # fmt: skip


async def test_a_dry_run_of_an_order_holds_nothing(client: httpx.AsyncClient) -> None:
    coupon_id = await coupon_of(client, "u1")
    dry = await client.post("/v1/orders?dry_run=true", json=order("o1", coupon_id))
    assert (dry.status_code, "checkout" in dry.json()) == (200, False)
    placed = await client.post("/v1/orders", json=order("o2", coupon_id))
    assert placed.json()["checkout"]["status"] == "ready"


async def test_without_sagas_an_order_taken_up_again_is_accepted_and_its_address_told(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/v1/orders", json=order("o1"))
    await client.post("/v1/orders/o1/cancel", json={})
    reopened = await client.post("/v1/orders/o1/reopen")
    assert (reopened.status_code, reopened.headers["location"]) == (202, "/v1/orders/o1")
    assert "checkout" not in reopened.json()
