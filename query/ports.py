"""What the read side offers to the edge: views of read models, each with the position in the log that it shows."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contracts.identity import Realm

PAGE_MAX = 100

View = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows in a stable order; ``next_cursor`` is opaque and absent on the last page."""

    items: Sequence[View]
    next_cursor: str | None


class BadCursor(Exception):
    """The cursor was not made by this list."""


class BadFilter(Exception):
    """A filter's value cannot be meant this way."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name} {message}")
        self.name = name
        self.message = message


class ReadModelUnavailable(Exception):
    """The engine behind a read model cannot be reached, or the model is being built for the first time."""


class ReadModels(Protocol):
    """The wallet, coupon, template, order and budget models. Absent things are None. Raises ReadModelUnavailable."""

    async def user_coupons(self, realm: Realm, user_id: str, *, cursor: str | None, limit: int) -> Page:
        """A user's coupons, latest claim first. Raises BadCursor."""
        ...

    async def coupon(self, realm: Realm, coupon_id: str) -> View | None:
        """One coupon."""
        ...

    async def templates(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """All templates of a realm. Raises BadCursor."""
        ...

    async def template(self, realm: Realm, template_id: str) -> View | None:
        """Terms, status and availability of one template."""
        ...

    async def order(self, realm: Realm, order_id: str) -> View | None:
        """One order: what was told, what is held, where its saga stands and why."""
        ...

    async def budget(self, realm: Realm, budget_id: str) -> View | None:
        """One budget by period: limit, reserved, committed, credited, available."""
        ...


class Reports(Protocol):
    """Facts and breaks. Raises ReadModelUnavailable."""

    async def funnel(self, realm: Realm, filters: Mapping[str, str], *, cursor: str | None, limit: int) -> Page:
        """Claims, locks, redemptions, returns and refusals per template."""
        ...

    async def spend(self, realm: Realm, filters: Mapping[str, str], *, cursor: str | None, limit: int) -> Page:
        """Discounts given and taken back per campaign, template and currency."""
        ...

    async def breaks(self, realm: Realm, filters: Mapping[str, str], *, cursor: str | None, limit: int) -> Page:
        """Reconciliation breaks, oldest first. ``filters``: kind, status."""
        ...

    async def a_break(self, realm: Realm, break_id: str) -> View | None:
        """One break with the events behind it."""
        ...


class Distributions(Protocol):
    """Where distributions stand, and whom they refused."""

    async def one(self, realm: Realm, distribution_id: str) -> View | None:
        """One distribution: status, how many rows are decided, issued, refused."""
        ...

    async def page(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """All distributions, the latest first."""
        ...

    async def refusals(self, realm: Realm, distribution_id: str) -> AsyncIterator[bytes] | None:
        """The refused rows as a CSV file, in pieces; None for an unknown distribution."""
        ...


class CodeBatches(Protocol):
    """Batches of codes: how many codes of each are assigned, used and void."""

    async def one(self, realm: Realm, batch_id: str) -> View | None:
        """One batch."""
        ...

    async def page(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """All batches: of the latest key first, and of each key the latest first. Raises BadCursor."""
        ...


class Histories(Protocol):
    """What was recorded of one stream, straight from the log."""

    async def coupon(self, realm: Realm, coupon_id: str, *, cursor: str | None, limit: int) -> Page:
        """A coupon's events in order: type, version, times, actor, payload."""
        ...
