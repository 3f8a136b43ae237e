"""What became of the rows: counts by outcome and code, and amounts exact, booked and the rounding between them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from contracts.money import to_major

NotApplied = Literal["refused", "parked"]
Outcome = Literal["applied"] | NotApplied
OUTCOMES: tuple[Outcome, ...] = ("applied", "refused", "parked")


@dataclass(slots=True)
class Tally:
    """One statement's rows so far. ``rows`` and ``source_rows`` are by (outcome, code); applied rows have ``ok``.

    ``exact`` is the source's own amount by outcome, in major units; ``booked_minor`` is what the applied rows booked.
    """

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    source_rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    exact: dict[str, Decimal] = field(default_factory=dict)
    booked_minor: int | None = None

    def add(
        self, outcome: Outcome, code: str, *, source_rows: int, amount: Decimal | None, booked_minor: int | None
    ) -> None:
        """Count one row."""
        self.rows[outcome, code] += 1
        self.source_rows[outcome, code] += source_rows
        if amount is not None:
            self.exact[outcome] = self.exact.get(outcome, Decimal(0)) + amount
        if booked_minor is not None and outcome == "applied":
            self.booked_minor = (self.booked_minor or 0) + booked_minor

    def rows_of(self, outcome: Outcome) -> int:
        """How many rows had this outcome, whatever their code."""
        return sum(count for (found, _), count in self.rows.items() if found == outcome)

    @property
    def rows_total(self) -> int:
        """All rows counted."""
        return sum(self.rows.values())

    def rounding(self, currency: str | None) -> Decimal | None:
        """Booked minus exact of the applied rows, in major units; None without amounts."""
        if self.booked_minor is None or currency is None:
            return None
        return to_major(self.booked_minor, currency) - self.exact.get("applied", Decimal(0))

    def as_json(self) -> dict[str, Any]:
        """What is stored with the cursor, and what ``--json`` shows."""
        return {
            "rows": _by_outcome(self.rows),
            "source_rows": _by_outcome(self.source_rows),
            "exact": {outcome: format(amount.normalize(), "f") for outcome, amount in sorted(self.exact.items())},
            "booked_minor": self.booked_minor,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Tally":
        """The inverse of :meth:`as_json`."""
        return cls(
            rows=_flat(stored.get("rows", {})),
            source_rows=_flat(stored.get("source_rows", {})),
            exact={outcome: Decimal(amount) for outcome, amount in stored.get("exact", {}).items()},
            booked_minor=stored.get("booked_minor"),
        )


def _by_outcome(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (outcome, code), count in sorted(counts.items()):
        nested.setdefault(outcome, {})[code] = count
    return nested


def _flat(nested: Mapping[str, Mapping[str, int]]) -> Counter[tuple[str, str]]:
    return Counter({(outcome, code): count for outcome, codes in nested.items() for code, count in codes.items()})
