"""What loses records is refused before anything has begun."""

from typing import Any

import pytest
from faststream.kafka import KafkaRouter
from faststream.middlewares import AckPolicy

from infra.intake.broker import IntakeBroker, UnsafeSubscriber

NOWHERE = {"bootstrap_servers": "127.0.0.1:1"}
SAFE: dict[str, Any] = {
    "batch": True,
    "group_id": "g",
    "max_records": 10,
    "ack_policy": AckPolicy.MANUAL,
    "auto_offset_reset": "earliest",
}


async def started(broker: IntakeBroker) -> None:
    """Start it; what is safe goes on to look for Kafka, in vain."""
    await broker.start()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"group_id": None}, "has no group"),
        ({"group_id": ""}, "has no group"),
        ({"ack_policy": AckPolicy.ACK_FIRST}, "acknowledges by ACK_FIRST"),
        ({"ack_policy": AckPolicy.NACK_ON_ERROR}, "acknowledges by NACK_ON_ERROR"),
        ({"max_records": None}, "without a bound"),
        ({"max_records": 100_000}, "without a bound"),
        ({"batch": False}, "one by one"),
        ({"auto_offset_reset": "latest"}, "would skip"),
    ],
)
@pytest.mark.parametrize("by_router", [False, True])
async def test_a_subscriber_that_loses_records_is_refused_at_start(
    change: dict[str, Any], why: str, by_router: bool
) -> None:
    broker = IntakeBroker(NOWHERE, graceful_seconds=1.0)
    declared = {**SAFE, **change}
    if not declared["batch"]:
        del declared["max_records"]
    if by_router:
        router = KafkaRouter()
        router.subscriber("t", **declared)(_ignore)
        broker.include_router(router)
    else:
        broker.subscriber("t", **declared)(_ignore)
    with pytest.raises(UnsafeSubscriber, match=why):
        await broker.start()


async def test_without_a_policy_of_its_own_a_subscriber_is_refused() -> None:
    broker = IntakeBroker(NOWHERE, graceful_seconds=1.0)
    broker.subscriber("t", **{name: value for name, value in SAFE.items() if name != "ack_policy"})(_ignore)
    with pytest.raises(UnsafeSubscriber, match="subscriber of t acknowledges by ACK_FIRST"):
        await broker.start()


async def test_a_subscriber_started_by_itself_makes_no_unsafe_consumer() -> None:
    broker = IntakeBroker(NOWHERE, graceful_seconds=1.0)
    subscriber = broker.subscriber("t", group_id="g")
    subscriber(_ignore)
    await broker.connect()
    with pytest.raises(UnsafeSubscriber, match="records that nobody handled"):
        await subscriber.start()
    with pytest.raises(UnsafeSubscriber, match="without a group_id"):
        await broker.subscriber("t", ack_policy=AckPolicy.MANUAL).start()


async def _ignore(_batch: Any) -> None:
    pass
