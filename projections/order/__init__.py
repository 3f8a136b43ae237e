"""One order: what was told, what is held, what was paid and refunded, where its saga stands and why."""

from projections.order.fold import ORDER_MODEL

__all__ = ["ORDER_MODEL"]
