"""What home and holder tell each other about leased money, in sums that only grow; and the bounds of leases."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from contracts.values import AmountMinor, Currency, StrictValue, Text, Zone

HOLDERS_MAX: Final = 64
TERM_SECONDS_MIN: Final = 30
TERM_SECONDS_MAX: Final = 86_400
# A holder stops this long before a lease's end: so far apart may the clocks of two stores be without anybody noticing.
# Nothing is overspent when they are further apart: home takes back only what the holder's own store has closed.
MARGIN_SECONDS: Final = 5

Recurs = Literal["day", "week", "month", "year"] | None


class BranchTerms(StrictValue):
    """What a branch has in common with its home."""

    name: Text
    currency: Currency
    recurs: Recurs
    zone: Zone
    when_short: Literal["refuse", "grant_remainder"]


class Statement(StrictValue):
    """A holder's books of one budget and period: leases up to ``number`` were opened or closed, and these are its sums.

    None of them ever falls, so that of two statements the later one is never below the earlier one.
    """

    number: AmountMinor = 0
    opened_minor: AmountMinor = 0
    returned_minor: AmountMinor = 0
    committed_minor: AmountMinor = 0
    credited_minor: AmountMinor = 0

    def sums(self) -> tuple[int, ...]:
        """Every sum."""
        return (self.number, self.opened_minor, self.returned_minor, self.committed_minor, self.credited_minor)

    def covers(self, earlier: "Statement") -> bool:
        """Whether this one is not older."""
        return all(mine >= theirs for mine, theirs in zip(self.sums(), earlier.sums(), strict=True))


class Lent(NamedTuple):
    """Home's view of one holder and period: its last lease, and what the holder's books said when it was last asked."""

    number: int
    amount_minor: int
    left_minor: int
    until: datetime
    spent_before_minor: int  # What the holder had spent when this lease was granted.
    known: Statement
    out_minor: int

    @property
    def in_flight(self) -> bool:
        """Whether the last lease is not known to have been opened or closed."""
        return self.known.number < self.number


class Purse(NamedTuple):
    """A branch in one period: its books, what it can spend, and what waits for more."""

    statement: Statement
    is_open: bool
    is_final: bool
    left_minor: int  # What home had left when it was last asked.
    until: datetime
    free_minor: int
    reserved_minor: int
    waiting: int
    missing_minor: int  # What those that wait need beyond what is free.


class HomeBooks(NamedTuple):
    """What home knows of one budget and one holder. ``available_minor`` is of the present period."""

    budget_id: str
    holder: str
    terms: BranchTerms
    shared: bool
    present_period: str
    available_minor: int
    lent: Mapping[str, Lent]


NOTHING_HERE: Final = Purse(Statement(), False, False, 0, datetime.min.replace(tzinfo=UTC), 0, 0, 0, 0)
