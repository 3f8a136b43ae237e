"""What one budget has lent and what a branch of it was lent, kept from the raw events of home and holder."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Account = tuple[str, str]  # Holder and period.

SUMS = ("opened_minor", "returned_minor", "committed_minor", "credited_minor")


@dataclass(slots=True)
class LeaseBook:
    """One budget's leases: at home by holder and period, at a holder by period."""

    granted: dict[Account, dict[int, int]] = field(default_factory=dict)  # Number -> amount.
    known: dict[Account, Mapping[str, Any]] = field(default_factory=dict)  # The last books that home took over.
    opened: dict[str, dict[int, int]] = field(default_factory=dict)
    closed_upto: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)

    def here(self, period: str) -> int:
        """What a branch was lent and has not given back."""
        return sum(self.opened.get(period, {}).values()) - self.returned[period]

    def out(self, data: Mapping[str, Any]) -> int:
        """What home must reserve for a holder: what is under way to it, and what its books say it has."""
        account = (data["holder"], data["period"])
        known = self.known.get(account, {})
        under_way = sum(
            amount for number, amount in self.granted.get(account, {}).items() if number > known.get("number", 0)
        )
        opened, returned, committed, credited = (known.get(name, 0) for name in SUMS)
        return int(under_way + opened - returned - committed + credited)

    def grant(self, data: Mapping[str, Any]) -> str | None:
        """Home lends; says what is wrong with it."""
        account, number = (data["holder"], data["period"]), data["number"]
        lent = self.granted.setdefault(account, {})
        before = self.out(data)
        wrong = None if number == len(lent) + 1 else f"lease {number} follows {len(lent)}"
        lent[number] = data["amount_minor"]
        reserved = max(self.out(data), 0) - max(before, 0)
        if data["reserved_delta_minor"] != reserved:
            wrong = f"lent {data['amount_minor']}, but {data['reserved_delta_minor']} reserved for it, not {reserved}"
        return wrong

    def settle(self, data: Mapping[str, Any]) -> str | None:
        """Home takes over a holder's books; says what is wrong with them."""
        account = (data["holder"], data["period"])
        known = self.known.get(account, {})
        fell = [name for name in ("number", *SUMS) if data[name] < known.get(name, 0)]
        self.known[account] = data
        granted = sum(amount for number, amount in self.granted.get(account, {}).items() if number <= data["number"])
        if fell:
            return f"the holder's {fell[0]} fell from {known[fell[0]]} to {data[fell[0]]}"
        if data["opened_minor"] > granted:
            return f"{data['opened_minor']} opened of {granted} granted"
        return None

    def open(self, data: Mapping[str, Any]) -> str | None:
        """A branch takes in a lease; says what is wrong with it."""
        leases = self.opened.setdefault(data["period"], {})
        last = max(max(leases, default=0), self.closed_upto[data["period"]])
        leases[data["number"]] = data["amount_minor"]
        return None if data["number"] > last else f"lease {data['number']} is opened after {last} was opened or closed"

    def close(self, data: Mapping[str, Any]) -> None:
        """A branch closes leases and gives back."""
        self.returned[data["period"]] += data["returned_minor"]
        self.closed_upto[data["period"]] = max(self.closed_upto[data["period"]], data["number"])
