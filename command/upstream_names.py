"""The names that order and payment services already publish under, translated into our commands by one table."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from contracts.commands import CancelOrder, Command, NoteOrder, PlaceOrder, ReportPayment, ReportRefund
from contracts.money import EXPONENTS, require_currency

Data = Mapping[str, Any]

_AMOUNT: Final = re.compile(r"-?\d{1,15}(\.\d{1,9})?", re.ASCII)


class UntranslatableEvent(Exception):
    """An upstream event whose name or data we cannot read. ``field`` is the member of its data that is at fault."""

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


def translate(event: str, data: Data, *, default_currency: str) -> Command:
    """The command that an upstream event means. Raises UntranslatableEvent, or ValidationError for impossible values.

    Amounts are decimals of major units (text or number), currency ``default_currency`` unless the data names one.
    Members that we have no use for are ignored: these are their events, not our bodies.
    """
    if (translator := UPSTREAM_EVENTS.get(event)) is None:
        raise UntranslatableEvent("", "unknown_upstream_event", f"{event!r} is not one of {sorted(UPSTREAM_EVENTS)}")
    return translator(data, data.get("currency") or default_currency)


def _placed(data: Data, currency: str) -> Command:
    return PlaceOrder(
        order_id=_id(data, "order_id", "id"),
        user_id=_optional_id(data, "customer_id", "user_id"),
        currency=currency,
        coupon_ids=_ids(data, "coupon_ids"),
        total_minor=_minor(data, currency, "total_amount", "total"),
    )


def _cancelled(data: Data, _currency: str) -> Command:
    return CancelOrder(order_id=_id(data, "order_id", "id"), cause="cancelled", reason=_text(data, "reason"))


def _rejected(data: Data, _currency: str) -> Command:
    return CancelOrder(order_id=_id(data, "order_id", "id"), cause="rejected", reason=_text(data, "reason"))


def _status_changed(data: Data, currency: str) -> Command:
    status = _id(data, "new_status", "status")
    match status:
        case "cancelled":
            return _cancelled(data, currency)
        case "rejected":
            return _rejected(data, currency)
    return NoteOrder(order_id=_id(data, "order_id", "id"), status=status)


def _noted(status: str) -> Callable[[Data, str], Command]:
    return lambda data, _currency: NoteOrder(order_id=_id(data, "order_id", "id"), status=status)


def _payment(status: str) -> Callable[[Data, str], Command]:
    def report(data: Data, currency: str) -> Command:
        return ReportPayment.model_validate(
            {
                "payment_id": _id(data, "payment_id", "transaction_id", "id"),
                "order_id": _id(data, "order_id"),
                "status": status,
                "amount_minor": 0 if _may_lack_amount(status, data) else _minor(data, currency, "amount"),
                "currency": currency,
                "reason": _text(data, "reason"),
            }
        )

    return report


def _may_lack_amount(status: str, data: Data) -> bool:
    """Money that came has an amount: to take a missing one for nothing would complete an order that nobody paid."""
    return status != "succeeded" and "amount" not in data


def _refund(data: Data, currency: str) -> Command:
    return ReportRefund(
        refund_id=_id(data, "refund_id", "id"),
        order_id=_optional_id(data, "order_id"),
        amount_minor=_minor(data, currency, "amount"),
        currency=currency,
    )


UPSTREAM_EVENTS: Final[dict[str, Callable[[Data, str], Command]]] = {
    "order.created": _placed,
    "order.cancelled": _cancelled,
    "order.rejected": _rejected,
    "order.status_changed": _status_changed,
    "order.accepted": _noted("accepted"),
    "order.approved": _noted("approved"),
    "payment.initiated": _payment("initiated"),
    "payment.completed": _payment("succeeded"),
    "payment.failed": _payment("failed"),
    "refund.processed": _refund,
}


def _id(data: Data, *names: str) -> str:
    """The first of these members that is there."""
    found = _optional_id(data, *names)
    if found is None:
        raise UntranslatableEvent(names[0], "missing", f"needs {' or '.join(names)}")
    return found


def _optional_id(data: Data, *names: str) -> str | None:
    for name in names:
        if (value := data.get(name)) is not None:
            return _as_id(name, value)
    return None


def _ids(data: Data, name: str) -> tuple[str, ...]:
    values = data.get(name) or []
    if not isinstance(values, list):
        raise UntranslatableEvent(name, "wrong_type", "must be an array")
    return tuple(_as_id(name, value) for value in values)


def _as_id(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UntranslatableEvent(name, "wrong_type", "must be a string or an integer")
    return str(value)


def _text(data: Data, name: str) -> str:
    value = data.get(name) or ""
    if not isinstance(value, str):
        raise UntranslatableEvent(name, "wrong_type", "must be a string")
    return value


def _minor(data: Data, currency: str, *names: str) -> int:
    """An amount of major units as minor units. A fraction of a minor unit is refused, never rounded."""
    name = next((each for each in names if data.get(each) is not None), None)
    if name is None:
        raise UntranslatableEvent(names[0], "missing", f"needs {' or '.join(names)}")
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UntranslatableEvent(name, "wrong_type", "must be a decimal number of major units")
    # A float is read by its shortest decimal text, which is what its sender printed. No exponents: 1E+999999999
    # would be an honest decimal, and all of our memory.
    text = str(value)
    if not _AMOUNT.fullmatch(text):
        raise UntranslatableEvent(name, "wrong_format", "must be a decimal number of major units")
    minor = Decimal(text).scaleb(EXPONENTS[_currency(currency)])
    if minor != minor.to_integral_value():
        raise UntranslatableEvent(name, "wrong_format", f"has more digits than {currency} has")
    return int(minor)


def _currency(code: object) -> str:
    try:
        return require_currency(str(code))
    except ValueError as error:
        raise UntranslatableEvent("currency", "unknown_currency", str(error)) from None
