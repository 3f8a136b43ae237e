"""A record becomes a command by the rules of HTTP, or a problem with HTTP's code."""

from typing import Any

import orjson
import pytest

from contracts.commands import CancelOrder, ClaimCoupon, PlaceOrder, ReportRefund
from contracts.identity import Realm
from infra.entry.problems import Problem
from infra.intake.decoding import COMMAND_SCOPES, FACT_SCOPES, Door, decode
from tests.unit.intake.world import ACME, COMMANDS, ORDERS, FakeRecord, command, record

CLAIM = command("c1", "claim_coupon", template_id="t1", user_id="ann")


def test_a_command_may_stand_in_the_value_alone() -> None:
    envelope = decode(record(CLAIM), COMMANDS.door)
    assert envelope.command == ClaimCoupon(template_id="t1", user_id="ann")
    assert (envelope.realm, envelope.command_id, envelope.actor) == (ACME, "c1", "kafka:commands")


@pytest.mark.parametrize("body", [CLAIM["data"], {"data": CLAIM["data"]}, CLAIM])
def test_type_and_id_may_stand_in_headers_and_the_value_be_the_data(body: Any) -> None:
    told = decode(record(body, ("type", b"claim_coupon"), ("command-id", b"c1")), COMMANDS.door)
    assert told._replace(traceparent=None) == decode(record(CLAIM), COMMANDS.door)


def test_correlation_and_trace_are_the_sender_s() -> None:
    told = decode(record(CLAIM, ("correlation", b"order-7"), ("traceparent", b"00-ab")), COMMANDS.door)
    assert (told.correlation_id, told.traceparent) == ("order-7", "00-ab")


@pytest.mark.parametrize("correlation", [b"with blanks", b"x" * 101, b""])
def test_a_correlation_that_would_harm_a_log_is_replaced_by_the_command_s_id(correlation: bytes) -> None:
    assert decode(record(CLAIM, ("correlation", correlation)), COMMANDS.door).correlation_id == "c1"


@pytest.mark.parametrize(
    ("event", "data", "expected"),
    [
        (
            "order.created",
            {"order_id": 7, "customer_id": 8, "provider_id": 9, "total_amount": "12.50"},
            PlaceOrder(order_id="7", user_id="8", currency="USD", total_minor=1250),
        ),
        ("order.rejected", {"order_id": 7}, CancelOrder(order_id="7", cause="rejected")),
        (
            "refund.processed",
            {"refund_id": 3, "order_id": 7, "amount": 5, "currency": "EUR"},
            ReportRefund(refund_id="3", order_id="7", amount_minor=500, currency="EUR"),
        ),
    ],
)
def test_upstream_s_events_are_read_under_their_own_names(event: str, data: dict[str, Any], expected: object) -> None:
    whole = decode(record({"event": event, "id": "e-1", "data": data}), ORDERS.door)
    bare = decode(record(data, ("type", event.encode()), ("event-id", b"e-1")), ORDERS.door)
    assert whole == bare
    assert whole.command == expected
    assert whole.command_id == f"upstream:{event}:e-1"  # As over HTTP: hearing it by both ways does nothing twice.


def test_a_realm_that_no_header_names_is_the_installation_s_default() -> None:
    door = Door("kafka", COMMAND_SCOPES, default_realm=Realm("demo", "main"))
    assert decode(FakeRecord(orjson.dumps(CLAIM), ()), door).realm == Realm("demo", "main")
    assert decode(record(CLAIM), door).realm == ACME


def test_of_several_headers_of_one_name_the_last_counts() -> None:
    assert decode(record(CLAIM, ("app", b"other")), COMMANDS.door).realm == Realm("acme", "other")


@pytest.mark.parametrize(
    ("value", "headers", "code"),
    [
        (None, None, "missing"),
        (b"", None, "missing"),
        (b"\xff\xfe", None, "malformed_json"),
        (b"{", None, "malformed_json"),
        (b'{"a": NaN}', None, "malformed_json"),
        (b"[" * 100 + b"]" * 100, None, "too_deep"),
        (b"[]", None, "wrong_type"),
        (b"{}", None, "missing"),
        (orjson.dumps({**CLAIM, "more": 1}), None, "unknown_field"),
        (orjson.dumps({**CLAIM, "type": "fly"}), None, "unknown_command"),
        (orjson.dumps({**CLAIM, "type": ["x"]}), None, "wrong_type"),
        (orjson.dumps({**CLAIM, "command_id": "\n"}), None, "malformed_command_id"),
        (orjson.dumps({**CLAIM, "command_id": "saga:1"}), None, "malformed_command_id"),
        (orjson.dumps({**CLAIM, "command_id": None}), None, "missing"),
        (orjson.dumps({**CLAIM, "data": {"template_id": "t1"}}), None, "missing"),
        (orjson.dumps({**CLAIM, "data": [1]}), None, "wrong_type"),
        (orjson.dumps(CLAIM), (), "missing"),
        (orjson.dumps(CLAIM), (("tenant", b"acme"),), "missing"),
        (orjson.dumps(CLAIM), (("tenant", b"acme"), ("app", b"")), "wrong_format"),
        (orjson.dumps(CLAIM), (("tenant", b"\xff"), ("app", b"shop")), "wrong_format"),
        (orjson.dumps(CLAIM), (("tenant", b"acme"), ("app", b"shop"), ("type", b"lock_coupon")), "contradicts_header"),
        (orjson.dumps(command("c", "start_distribution")), None, "has_its_own_route"),
        (orjson.dumps(command("c", "hold_for_order", order_id="o")), None, "scope_missing"),
        (orjson.dumps(command("c", "advance_clock", to="2027-01-01T00:00:00Z")), None, "scope_missing"),
        (orjson.dumps(command("c", "use_code")), None, "scope_missing"),
        (orjson.dumps({"event": "order.created", "id": "1", "data": {"id": 1}}), None, "missing"),
        (orjson.dumps({"event": "order.eaten", "id": "1", "data": {}}), None, "unknown_upstream_event"),
        (orjson.dumps({"event": "order.created", "data": {}}), None, "missing"),
    ],
)
def test_what_is_no_command_is_refused_with_the_code_of_http(
    value: bytes | None, headers: tuple[tuple[str, bytes], ...] | None, code: str
) -> None:
    told = FakeRecord(value) if headers is None else FakeRecord(value, headers)
    with pytest.raises(Problem) as refused:
        decode(told, COMMANDS.door)
    assert refused.value.code == code
    assert refused.value.detail


@pytest.mark.parametrize(("scopes", "may"), [(COMMAND_SCOPES, True), (FACT_SCOPES, False)])
def test_topics_of_facts_take_facts_only(scopes: frozenset[Any], may: bool) -> None:
    door = Door("kafka", scopes)
    assert decode(record(command("c", "cancel_order", order_id="o")), door).command == CancelOrder(order_id="o")
    if may:
        assert decode(record(CLAIM), door)
    else:
        with pytest.raises(Problem, match="needs the scope coupons:claim") as refused:
            decode(record(CLAIM), door)
        assert "whoever writes to commands (kafka) has orders:write" in refused.value.detail
        assert "Send it to coupon-command-topic, or over HTTP with a key of the role order_system," in str(
            refused.value
        )


def test_a_scope_that_no_topic_has_is_told_with_the_key_that_has_it() -> None:
    with pytest.raises(Problem) as refused:
        decode(record(command("c", "hold_for_order", order_id="o")), COMMANDS.door)
    assert "scope processes:write, and whoever writes to commands (kafka:commands) has" in refused.value.detail
    assert refused.value.detail.endswith(
        "Send it over HTTP with a key of the role operator or admin (`tessera keys create --role operator`)"
    )


def test_a_header_that_is_no_text_and_that_nobody_asks_for_hinders_nothing() -> None:
    assert decode(record(CLAIM, ("blob", b"\xff\xfe")), COMMANDS.door).command_id == "c1"
