"""What a realm's business clock shows, for readers who judge by it."""

from projections.clock.fold import CLOCK_MODEL

__all__ = ["CLOCK_MODEL"]
