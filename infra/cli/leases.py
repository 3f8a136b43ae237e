"""``tessera leases``: who has money of this shard's budgets, since when, and whether both sides' books agree."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import ExitCode
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.leases.books import Store

_COLUMNS = (
    *("budget_id", "holder", "period", "shared", "lease", "lent_minor", "out_minor", "free_minor", "waiting"),
    *("until", "overdue_seconds", "state"),
)
_NUMBERS = ("lease", "lent_minor", "out_minor", "free_minor", "waiting", "overdue_seconds")


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "list", example="tessera leases list")(_list)
    command(group, "verify", example="tessera leases verify")(_verify)


def _list(session: Session) -> ExitCode:
    """List the leases of budgets that live on this shard. Ends with 3 when one is overdue, away or refused."""
    from infra.leases.books import accounts

    with _stores(session.settings) as (home, holders):
        rows = [_row(account) for account in accounts(home, holders)]
    session.out.show({"leases": rows}, table("Leases", rows, _COLUMNS, right=_NUMBERS, whole=("budget_id", "holder")))
    return ExitCode.FINDINGS if any(row["state"] not in {"settled", "out"} for row in rows) else ExitCode.OK


def _verify(session: Session) -> ExitCode:
    """Compare the books of home and of every holder, from their raw logs. Ends with 3 when they do not agree."""
    from infra.shards.distinct import require_distinct_stores
    from infra.verify.leases import verify_leases

    settings = session.settings
    require_distinct_stores(settings.stores)
    others = {str(shard): dsn for shard, dsn in settings.stores.items() if shard != settings.shard}
    found = [
        {"invariant": it.invariant, "subject": it.subject, "detail": it.detail}
        for it in verify_leases(settings.postgres_dsn, others)
    ]
    session.out.show({"violations": found}, table("Violations", found, ("invariant", "subject", "detail")))
    return ExitCode.FINDINGS if found else ExitCode.OK


@contextmanager
def _stores(settings: Settings) -> Iterator[tuple["Store", dict[str, "Store"]]]:
    """Every shard's store, to be looked at."""
    from infra.leases.books import Store
    from infra.postgres.log import PostgresEventLog
    from infra.shards.distinct import require_distinct_stores

    require_distinct_stores(settings.stores)
    with ExitStack() as stack:
        stores = {}
        for shard, dsn in settings.stores.items():
            log = stack.enter_context(closing(PostgresEventLog(dsn, shard=shard)))
            stores[str(shard)] = stack.enter_context(closing(Store(dsn, log)))
        yield stores.pop(str(settings.shard)), stores


def _row(account: Any) -> dict[str, Any]:
    lent, purse = account.lent, account.purse
    settled = account.reserved_minor == 0 and not lent.in_flight
    known = "away" if purse is None else f"refused: {account.refused}" if account.refused else ""
    state = known or ("overdue" if account.overdue_seconds else "settled" if settled else "out")
    return {
        "tenant_id": account.realm.tenant_id,
        "app_id": account.realm.app_id,
        "budget_id": account.budget_id,
        "holder": account.holder,
        "period": account.period,
        "shared": account.shared,
        "lease": lent.number,
        "lent_minor": lent.amount_minor,
        "out_minor": lent.out_minor,
        "free_minor": None if purse is None else purse.free_minor,
        "waiting": None if purse is None else purse.waiting,
        "until": lent.until.isoformat(),
        "overdue_seconds": round(account.overdue_seconds),
        "state": state,
    }
