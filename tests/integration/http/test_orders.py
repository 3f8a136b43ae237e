"""Orders over HTTP with the sagas running: placed, held, paid, refused, reopened; the caller learns the outcome."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from infra.bootstrap.stores import write_side
from infra.sagas.worker import SagaWorker
from tests.integration.http.conftest import Server, api
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


@pytest.mark.usefixtures("sagas")
async def test_an_order_told_again_is_answered_with_its_checkout_as_it_stands(client: httpx.AsyncClient) -> None:
    coupon_id = await coupon_of(client, "u1")
    key = {"Idempotency-Key": "k1"}
    placed = await client.post("/v1/orders", json=order("o1", coupon_id), headers=key)
    assert placed.json()["checkout"]["status"] == "ready"
    await client.post("/v1/orders/o1/cancel", json={"reason": "changed my mind"})
    await until_free(client, coupon_id)
    by_new_key = await client.post("/v1/orders", json=order("o1", coupon_id))
    by_same_key = await client.post("/v1/orders", json=order("o1", coupon_id), headers=key)
    for again in (by_new_key.json()["checkout"], by_same_key.json()["checkout"]):
        assert (again["status"], again["cause"], again["attempt"]) == ("released", "order_cancelled", 1)
    assert by_same_key.json()["data"] == placed.json()["data"]
    assert by_same_key.headers["idempotency-replayed"] == "true"
    await client.post("/v1/orders/o1/reopen")
    reopened = (await client.post("/v1/orders", json=order("o1", coupon_id), headers=key)).json()["checkout"]
    assert (reopened["status"], reopened["attempt"]) == ("ready", 2)
    payment = {"payment_id": "p1", "order_id": "o1", "status": "succeeded", "currency": "EUR", "amount_minor": 5_000}
    await client.post("/v1/payments", json=payment)
    paid = (await client.post("/v1/orders", json=order("o1", coupon_id), headers=key)).json()["checkout"]
    assert (paid["status"], paid["payment_id"], paid["payable_minor"]) == ("completed", "p1", 5_000)


async def test_nobody_is_told_to_pay_for_a_hold_that_is_about_to_be_released(client: httpx.AsyncClient) -> None:
    await client.post("/v1/orders", json=order("o1"), headers={"Idempotency-Key": "k1"})
    await client.post("/v1/orders/o1/cancel", json={})  # No saga runs that would release it.
    for key in ("k1", "k2"):
        again = await client.post("/v1/orders", json=order("o1"), headers={"Idempotency-Key": key})
        assert (again.status_code, "checkout" in again.json()) == (202, False)


async def test_an_order_goes_alone_where_its_first_step_has_no_room(postgres_dsn: str) -> None:
    with api(postgres_dsn, queue_commands_max=1) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30) as client:
            placed = await client.post("/v1/orders", json=order("o1"))
            assert (placed.status_code, placed.json().get("status")) == (202, "accepted"), placed.text
            batch = {"commands": [{"type": "place_order", "data": order("o2")}]}
            answers = (await client.post("/v1/commands", json=batch)).json()
            assert [answer["status"] for answer in answers["answers"]] == ["accepted"]


async def until_free(client: httpx.AsyncClient, coupon_id: str) -> None:
    """Wait until the coupon's hold was released."""
    async with asyncio.timeout(20):
        while True:
            history = (await client.get(f"/v1/coupons/{coupon_id}/history")).json()["items"]
            if history[-1]["type"] == "coupon.released.v1":
                return
            await asyncio.sleep(0.05)
