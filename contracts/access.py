"""Who may do what: scopes, the roles that bundle them, and the caller that an API key stands for."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from contracts.identity import Realm


class Scope(StrEnum):
    """One permission. Every route and every command names exactly one."""

    TEMPLATES_READ = "templates:read"
    TEMPLATES_WRITE = "templates:write"
    COUPONS_READ = "coupons:read"
    COUPONS_CLAIM = "coupons:claim"
    COUPONS_DISTRIBUTE = "coupons:distribute"  # Give coupons to lists of users, and see who was refused.
    CODES_READ = "codes:read"  # How many are assigned, used and void; not the codes.
    CODES_WRITE = "codes:write"  # Generate, assign (which tells codes) and void.
    CODES_EXPORT = "codes:export"  # Every code of a batch.
    CODES_USE = "codes:use"
    COUPONS_USE = "coupons:use"  # Lock, redeem and release for an order.
    COUPONS_REVOKE = "coupons:revoke"
    ORDERS_READ = "orders:read"
    ORDERS_WRITE = "orders:write"  # Orders, payments, refunds and adjustments, as the upstream reports them.
    BUDGETS_READ = "budgets:read"
    BUDGETS_WRITE = "budgets:write"
    REPORTS_READ = "reports:read"
    RECONCILIATION_READ = "reconciliation:read"
    RECONCILIATION_WRITE = "reconciliation:write"  # Open and close breaks, set rows of an import aside.
    CLOCK_ADVANCE = "clock:advance"
    PROCESSES_WRITE = "processes:write"  # What sagas and timers send; people do so only to repair.


class Door(StrEnum):
    """What a route may state instead of a scope; nobody is granted these."""

    PUBLIC = "public"  # No key: health, metrics, documentation.
    ANY_KEY = "any key"  # Any valid key: each part of the request states a scope of its own.


_READS = frozenset(
    {
        Scope.TEMPLATES_READ,
        Scope.COUPONS_READ,
        Scope.CODES_READ,
        Scope.ORDERS_READ,
        Scope.BUDGETS_READ,
        Scope.REPORTS_READ,
        Scope.RECONCILIATION_READ,
    }
)

ROLES: Final[dict[str, frozenset[Scope]]] = {
    "order_system": frozenset(
        {
            Scope.TEMPLATES_READ,
            Scope.COUPONS_READ,
            Scope.COUPONS_CLAIM,
            Scope.COUPONS_USE,
            Scope.CODES_USE,
            Scope.ORDERS_READ,
            Scope.ORDERS_WRITE,
        }
    ),
    "merchant": frozenset(
        {
            Scope.TEMPLATES_READ,
            Scope.TEMPLATES_WRITE,
            Scope.COUPONS_READ,
            Scope.COUPONS_CLAIM,
            Scope.COUPONS_DISTRIBUTE,
            Scope.COUPONS_REVOKE,
            Scope.CODES_READ,
            Scope.CODES_WRITE,
            Scope.CODES_EXPORT,
            Scope.BUDGETS_READ,
            Scope.BUDGETS_WRITE,
            Scope.REPORTS_READ,
        }
    ),
    "analyst": _READS,
    "operator": _READS | {Scope.COUPONS_REVOKE, Scope.RECONCILIATION_WRITE, Scope.PROCESSES_WRITE},
    "admin": frozenset(Scope),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever an API key stands for: the realm it is confined to, the name that events remember, what it may do."""

    realm: Realm
    actor: str
    scopes: AbstractSet[str]
