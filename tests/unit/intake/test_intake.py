"""A batch of records is finished whatever they hold; it waits only for what passes, and is answered as over HTTP."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from command.engine import Engine, EngineSettings
from command.handlers import HANDLERS
from contracts.commands import ClaimCoupon
from contracts.envelope import Answer
from contracts.position import Position
from infra.entry.bridge import AnswerBridge
from infra.intake.intake import Intake, MustWait, Patience
from infra.sagas.first_step import first_step
from infra.telemetry.tracing import Tracing
from tests.builders import terms
from tests.unit.http.conftest import caller, edge
from tests.unit.intake.world import (
    COMMANDS,
    IMPATIENT,
    NOON,
    ORDERS,
    REPLIES,
    Counting,
    FakePublisher,
    Log,
    command,
    record,
    records,
    world,
)

TERMS = terms(claim_from=NOON, stock=2).model_dump(mode="json", exclude_none=True)
SHOP = [
    command("k1", "create_template", template_id="t1", terms=TERMS),
    command("k2", "activate_template", template_id="t1"),
    command("k3", "claim_coupon", template_id="t1", user_id="ann"),
    command("k4", "claim_coupon", template_id="t1", user_id="bob"),
    command("k5", "claim_coupon", template_id="t1", user_id="cas"),  # None is left.
    command("k6", "claim_coupon", template_id="t2", user_id="ann"),  # There is none.
    command("k3", "claim_coupon", template_id="t1", user_id="ann"),  # Again.
    command("k4", "claim_coupon", template_id="t1", user_id="dan"),  # Reused.
    command("k7", "place_order", order_id="o1", currency="GBP", total_minor=5_000, user_id="ann"),
    command(
        "k8", "report_payment", payment_id="p1", order_id="o1", status="succeeded", amount_minor=5000, currency="GBP"
    ),
    command("k9", "cancel_order", order_id="nobody-knows"),
    command("kA", "claim_coupon", template_id="t1", user_id=""),
    command("kB", "hold_for_order", order_id="o1"),
]
NEVER = {"kA", "kB"}


async def over_http(bodies: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What a batch over HTTP is answered, by id. A key without rights to act for processes."""
    with edge(Log(), HANDLERS) as made:
        made.keys["acme"].scopes = COMMANDS.door.scopes
        async with caller(made) as client:
            response = await client.post("/v1/commands", json={"commands": bodies})
    told: dict[str, list[dict[str, Any]]] = {}
    for answer in response.json()["answers"]:
        told.setdefault(answer["command_id"], []).append(comparable(answer))
    return told


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what says by which way the command came."""
    return {name: value for name, value in answer.items() if name not in {"request_id", "replayed", "tenant", "app"}}


async def test_the_same_commands_are_answered_as_over_http() -> None:
    expected = await over_http(SHOP)
    with world() as made:
        await made.intake.take(records(SHOP), COMMANDS)
        told: dict[str, list[dict[str, Any]]] = {}
        for value in made.publisher.values():
            assert (value["tenant"], value["app"]) == ("acme", "shop")
            told.setdefault(value["command_id"], []).append(comparable(value))
        letters = made.publisher.to("commands-dead")
    assert told == {key: answers for key, answers in expected.items() if key not in NEVER}
    reasons = [dict(each.headers)["reason"].decode() for each in letters]
    assert reasons == [answers[0]["code"] for key, answers in expected.items() if key in NEVER]


def test_replies_are_keyed_by_the_command_and_tell_what_else_is_known_in_headers() -> None:
    with world() as made:
        made.take(*SHOP[:3], SHOP[2])
        first, again = made.publisher.to(REPLIES)[2:]
    assert first.key == b"k3"
    assert first.value == again.value
    told = dict(first.headers)
    assert (told["command-id"], told["tenant"], told["app"], told["code"]) == (b"k3", b"acme", b"shop", b"ok")
    assert told["replayed"] == b"false"
    assert dict(again.headers)["replayed"] == b"true"
    assert told["traceparent"].startswith(b"00-")


def test_a_batch_that_comes_again_is_answered_the_same_and_stores_nothing() -> None:
    with world() as made:
        made.take(*SHOP)
        first, stored = made.publisher.to(REPLIES), made.log._state.last_offset
        made.publisher.published.clear()
        made.take(*SHOP)
        again = made.publisher.to(REPLIES)
        assert made.log._state.last_offset == stored
    assert [each.value for each in again] == [each.value for each in first]


def test_what_cannot_be_read_hinders_nothing_beside_it() -> None:
    with world() as made:
        made.take(b"\xff", SHOP[0], b"[]", SHOP[1], b"", {"type": "fly"})
        letters = made.publisher.to("commands-dead")
        assert [value["command_id"] for value in made.publisher.values()] == ["k1", "k2"]
    offsets = [dict(each.headers)["origin-offset"] for each in letters]
    assert offsets == [b"0", b"2", b"4", b"5"]
    assert letters[0].value == b"\xff"


def test_a_traceparent_is_passed_on_and_an_unreadable_one_replaced() -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01".encode()
    with world() as made:
        batch = [record(SHOP[0], ("traceparent", trace)), record(SHOP[1], ("traceparent", b"oops"))]
        asyncio.run(made.intake.take(batch, COMMANDS))
        first, second = made.publisher.to(REPLIES)
        stored = [each.metadata.traceparent for each in made.log._state.events]
    assert dict(first.headers)["traceparent"] == trace
    assert stored[0] == trace.decode()
    assert dict(second.headers)["traceparent"] not in {trace, b"oops"}


def test_the_first_step_of_an_order_s_saga_goes_along() -> None:
    with world(first_step=first_step) as made:
        made.take(SHOP[8])
        kinds = {each.event.type for each in made.log._state.events}
        assert len(made.publisher.values()) == 1  # The step's answer is nobody's reply.
    assert "checkout.ready.v1" in kinds


def test_upstream_s_events_are_answered_like_commands() -> None:
    with world() as made:
        made.take({"event": "order.created", "id": 5, "data": {"id": 7, "total_amount": 3}}, way=ORDERS)
        (value,) = made.publisher.values()
    assert value["command_id"] == "upstream:order.created:5"
    assert value["status"] == "accepted"


def test_a_store_that_is_away_makes_the_batch_wait_and_nothing_is_published() -> None:
    with world() as made:
        made.log.is_away = True
        with pytest.raises(MustWait, match="store_unavailable"):
            made.take(SHOP[0], b"\xff")
        assert made.publisher.published == []
        assert made.observer.counted["waits", "store_unavailable"] >= 1
        made.log.is_away = False
        made.take(SHOP[0], b"\xff")
        assert len(made.publisher.published) == 2


def test_a_queue_that_is_full_makes_the_batch_wait() -> None:
    engine = Engine(Log(), HANDLERS, EngineSettings(queue_commands_max=2))  # It does not run.
    bridge = AnswerBridge(engine, timeout_seconds=0.01)
    publisher = FakePublisher()
    intake = Intake(bridge, publisher, REPLIES, Tracing(), counting := Counting(), patience=IMPATIENT)

    async def fill_then_take() -> None:
        waiting = bridge.submit([intake._traced(_envelope()) for _ in range(2)])
        with pytest.raises(MustWait, match="busy"):
            await intake.take(records(SHOP[:1]), COMMANDS)
        await asyncio.wait(waiting)
        for each in waiting:
            each.exception()

    asyncio.run(fill_then_take())
    assert counting.counted["waits", "busy"] >= 1
    assert publisher.published == []


def _envelope() -> Any:
    from infra.intake.decoding import decode

    return decode(record(SHOP[0]), COMMANDS.door)


def test_a_batch_larger_than_the_queue_is_sent_in_parts() -> None:
    engine = Engine(Log(), HANDLERS, EngineSettings(queue_commands_max=3))
    engine.start()
    publisher = FakePublisher()
    intake = Intake(AnswerBridge(engine), publisher, REPLIES, Tracing(), Counting(), patience=IMPATIENT)
    asyncio.run(intake.take(records(SHOP[:10]), COMMANDS))
    engine.stop()
    assert [value["command_id"] for value in publisher.values()] == [each["command_id"] for each in SHOP[:10]]


def test_a_command_that_breaks_becomes_a_letter_and_the_rest_is_answered() -> None:
    sound = HANDLERS[ClaimCoupon]

    def breaks(_uow: Any, _command: Any) -> dict[str, Any]:
        raise ZeroDivisionError

    with world({**HANDLERS, ClaimCoupon: replace(sound, handle=breaks)}) as made:
        made.take(*SHOP[:3])
        (letter,) = made.publisher.to("commands-dead")
        assert [value["command_id"] for value in made.publisher.values()] == ["k1", "k2"]
    assert dict(letter.headers)["reason"] == b"internal"
    assert made.observer.counted["waits", "internal"] == 2  # It was tried three times.


def test_replies_that_are_not_acknowledged_are_published_again() -> None:
    with world() as made:
        made.publisher.failures = 2
        made.take(*SHOP[:4])
        values = [each.value for each in made.publisher.to(REPLIES)]
    assert len(values) > 4
    assert len(set(values)) == 4


def test_a_batch_whose_replies_are_never_acknowledged_waits() -> None:
    with world() as made:
        made.publisher.failures = 10_000
        with pytest.raises(MustWait, match="not_published"):
            made.take(*SHOP[:2])


def test_stopping_ends_the_wait_but_not_what_can_be_finished() -> None:
    with world(patience=Patience(give_up_seconds=3_600)) as made:
        made.intake.stop()
        made.take(*SHOP[:2])
        assert len(made.publisher.published) == 2
        made.log.is_away = True
        with pytest.raises(MustWait):
            made.take(SHOP[2])


def test_an_answer_too_large_for_a_message_is_told_without_its_data() -> None:
    sound = HANDLERS[ClaimCoupon]

    def verbose(uow: Any, told: Any) -> dict[str, Any]:
        return {**sound.handle(uow, told), "much": "x" * 2_000_000}

    with world({**HANDLERS, ClaimCoupon: replace(sound, handle=verbose)}) as made:
        made.take(*SHOP[:3])
        last = made.publisher.to(REPLIES)[-1]
    assert orjson.loads(last.value or b"") | {"position": ""} == {
        "command_id": "k3", "status": "accepted", "position": "", "data": {}, "data_left_out": True,
        "tenant": "acme", "app": "shop",
    }  # fmt: skip


def test_an_answer_is_the_same_bytes_whatever_order_its_members_come_in() -> None:
    from infra.intake.decoding import decode
    from infra.intake.replies import reply

    envelope = decode(record(SHOP[0]), COMMANDS.door)
    data = {"b": {"y": 1, "x": 2}, "a": 3}  # The command log keeps no order of members.
    again = {"a": 3, "b": {"x": 2, "y": 1}}
    position = Position(0, "e1", 7)
    values = {reply("r", envelope, Answer("accepted", "ok", "", told, position)).value for told in (data, again)}
    assert len(values) == 1


def test_counts_tell_answers_and_letters_by_their_codes() -> None:
    with world() as made:
        made.take(*SHOP)
        counted = made.observer.counted
    assert counted["answered", "template_exhausted"] == 1
    assert counted["answered", "unknown_template"] == 1
    assert counted["letter", "scope_missing"] == 1
