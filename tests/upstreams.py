"""What upstreams send under their own names: events that mean something, and some that cannot be read."""

from typing import Any, Final

# The event's name, its data, and what of the command it means has to be so.
TAKEN: Final[list[tuple[str, dict[str, Any], dict[str, Any]]]] = [
    (
        "order.created",
        {"order_id": 7, "customer_id": 3, "provider_id": 9, "total_amount": "12.50"},
        {"order_id": "7", "user_id": "3", "total_minor": 1_250, "currency": "USD"},
    ),
    ("order.cancelled", {"order_id": 7}, {"order_id": "7", "cause": "cancelled"}),
    ("order.rejected", {"order_id": 7, "reason": "no stock"}, {"cause": "rejected", "reason": "no stock"}),
    ("order.status_changed", {"order_id": 7, "new_status": "rejected"}, {"cause": "rejected"}),
    ("order.status_changed", {"order_id": 7, "status": "shipped"}, {"status": "shipped"}),
    ("order.accepted", {"order_id": 7}, {"status": "accepted"}),
    ("order.approved", {"order_id": 7}, {"status": "approved"}),
    ("payment.initiated", {"payment_id": 1, "order_id": 7}, {"status": "initiated"}),
    (
        "payment.completed",
        {"payment_id": 1, "order_id": 7, "amount": 0.1, "currency": "KWD"},
        {"status": "succeeded", "amount_minor": 100, "currency": "KWD"},
    ),
    ("payment.failed", {"id": 1, "order_id": 7, "amount": "5"}, {"status": "failed", "payment_id": "1"}),
    ("refund.processed", {"refund_id": 2, "order_id": 7, "amount": 3}, {"refund_id": "2", "amount_minor": 300}),
]

# The name, the data, the code of the refusal and where in the message it is.
REFUSED: Final[list[tuple[str, dict[str, Any], str, str]]] = [
    ("order.eaten", {}, "unknown_upstream_event", "/event"),
    ("order.created", {"total_amount": 1}, "missing", "/data/order_id"),
    ("order.created", {"order_id": 1}, "missing", "/data/total_amount"),
    ("order.created", {"order_id": 1, "total_amount": "1.005"}, "wrong_format", "/data/total_amount"),
    ("order.created", {"order_id": 1, "total_amount": "ten"}, "wrong_format", "/data/total_amount"),
    ("order.created", {"order_id": 1, "total_amount": "Infinity"}, "wrong_format", "/data/total_amount"),
    ("order.created", {"order_id": 1, "total_amount": "1E+999999999"}, "wrong_format", "/data/total_amount"),
    ("order.created", {"order_id": 1, "total_amount": 1, "coupon_ids": "c1"}, "wrong_type", "/data/coupon_ids"),
    ("order.created", {"order_id": 1, "total_amount": 1, "currency": 5}, "unknown_currency", "/data/currency"),
    ("order.created", {"order_id": 1, "total_amount": 1, "currency": "???"}, "unknown_currency", "/data/currency"),
    ("order.created", {"order_id": 1, "total_amount": -1}, "invalid", "/data"),
    ("order.created", {"order_id": [1], "total_amount": 1}, "wrong_type", "/data/order_id"),
    ("payment.completed", {"payment_id": 1, "order_id": 7, "amount_minor": 500}, "missing", "/data/amount"),
]
