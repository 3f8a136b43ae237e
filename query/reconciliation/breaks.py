"""What the reconciliation views find, and what was found before; the views are in projections/schema/clickhouse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, Literal, Protocol

from contracts.identity import Realm

Severity = Literal["info", "warning", "critical"]

# Kinds that a view finds; `store_drift` is found by comparing the stores themselves (query.verify.stores).
KINDS: Final = (
    "paid_not_redeemed",
    "redeemed_not_paid",
    "discount_mismatch",
    "payment_mismatch",
    "refund_not_returned",
    "refund_exceeds_payment",
    "lock_leaked",
    "budget_drift",
    "orphan_payment",
    "orphan_refund",
    "duplicate_payment",
    "oversold",
)
STORE_DRIFT: Final = "store_drift"

_COLUMNS: Final = "tenant_id, app_id, kind, severity, subject, currency, amount_minor, detail, event_ids, since"
_ROWS_MAX: Final = 100_000


class FactStore(Protocol):
    """Whoever answers SQL about facts. ``parameters`` fill ``{name:Type}``; rows are tuples."""

    def rows(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """All rows of a query."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """One break as it shows now. Amounts are minor units of ``currency`` (None: no money is involved)."""

    realm: Realm
    kind: str
    severity: Severity
    subject: str
    currency: str | None
    amount_minor: int
    detail: str
    event_ids: tuple[str, ...]
    since: datetime

    @property
    def break_id(self) -> str:
        """The same disagreement has the same id whenever it is found."""
        return break_id_of(self.realm, self.kind, self.subject)


@dataclass(frozen=True, slots=True)
class OpenBreakRow:
    """A break that was recorded and not yet closed."""

    realm: Realm
    break_id: str
    kind: str
    amount_minor: int
    detail: str


def break_id_of(realm: Realm, kind: str, subject: str) -> str:
    """``{kind}-{digest}``: stable, and readable enough for a pager."""
    seed = f"{realm.key}\n{kind}\n{subject}"
    return f"{kind}-{blake2b(seed.encode(), digest_size=6).hexdigest()}"


def find_breaks(facts: FactStore, *, as_of: datetime, patience: timedelta = timedelta(0)) -> list[Found]:
    """Every break that shows in what was recorded by ``as_of``, oldest first.

    ``patience``: a disagreement whose latest fact is younger is not called a break yet, because sagas need a moment.
    """
    found: list[Found] = []
    for kind in KINDS:
        sql = f"SELECT {_COLUMNS} FROM break_{kind}(as_of = {{as_of:DateTime64(6)}}) LIMIT {_ROWS_MAX}"
        found += [_found(row) for row in facts.rows(sql, {"as_of": as_of})]
    return sorted((each for each in found if each.since <= as_of - patience), key=lambda each: (each.since, each.kind))


def open_breaks(facts: FactStore) -> list[OpenBreakRow]:
    """The breaks on record that are open."""
    sql = f"""
        SELECT tenant_id, app_id, break_id, kind, amount_minor, detail
        FROM breaks WHERE status = 'open' LIMIT {_ROWS_MAX}
    """
    return [OpenBreakRow(Realm(row[0], row[1]), *row[2:]) for row in facts.rows(sql, {})]


def _found(row: Sequence[Any]) -> Found:
    tenant_id, app_id, kind, severity, subject, currency, amount_minor, detail, event_ids, since = row
    return Found(
        realm=Realm(tenant_id, app_id),
        kind=kind,
        severity=severity,
        subject=subject,
        currency=currency or None,
        amount_minor=int(amount_minor),
        detail=detail,
        event_ids=tuple(event_ids),
        since=since if since.tzinfo else since.replace(tzinfo=UTC),  # The stock client leaves UTC unsaid.
    )
