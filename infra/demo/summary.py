"""How the demo tells its story: tables that fit 80 columns, figures that were measured."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from contracts.money import to_major
from infra.demo.acts import Tally
from infra.demo.books import Books
from infra.demo.day import CURRENCY, RUSH, Day
from infra.demo.faults import Planted
from infra.processes import as_typed
from infra.verify import Report
from query.reconciliation import Found

WRONG_SHOWN_MAX: Final = 20


def opening(day: Day, seed: int, scale: float, *, kafka: bool = False) -> RenderableType:
    """What is about to be seen."""
    engines = "PostgreSQL, Redis, ClickHouse and Kafka" if kafka else "PostgreSQL, Redis and ClickHouse"
    how = "commands and facts come in by topic, followers read topics" if kafka else "everything goes through HTTP"
    text = Text.assemble(
        ("Tessera", "bold"),
        f": one business day (seed {seed}, scale {scale:g})\n",
        (
            f"{len(day.customers):,} customers, {len(day.rush_users):,} users for {day.rush_stock:,} coupons at noon, "
            f"{len(day.orders):,} orders. Real {engines}; {how}.",
            "dim",
        ),
    )
    return Panel(text, box=box.ROUNDED, style="cyan")


def books(books: Books, tally: Tally, day: Day) -> Iterator[RenderableType]:
    """Funnel, rush, budgets, sagas, money."""
    yield _funnel(books)
    yield Columns([_rush(books, tally, day), _budgets(books)], padding=(1, 4))
    yield Columns([_sagas(books), _orders(books), _refusals(tally)], padding=(1, 4))


def _table(title: str, *columns: str, left: int = 1, wraps: str = "") -> Table:
    """A table whose columns keep their width, except the one that ``wraps``."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=column != wraps)
    return table


def _funnel(books: Books) -> Table:
    table = _table(
        "Coupon funnel (ClickHouse)",
        "template",
        "claimed",
        "refused",
        "locked",
        "used",
        "free",
        "back",
        "exp.",
        "given",
    )
    for row in books.funnel:
        table.add_row(
            row["template_id"],
            *(
                f"{row[name]:,}"
                for name in ("claimed", "refused", "locked", "redeemed", "released", "returned", "expired")
            ),
            _major(row["redeemed_minor"] - row["returned_minor"]),
        )
    return table


def _rush(books: Books, tally: Tally, day: Day) -> Table:
    latencies = sorted(tally.rush_latencies)
    table = _table(f"The rush: {len(day.rush_users):,} users, {day.rush_stock:,} coupons", "", "")
    for store, count in books.rush_claims.items():
        table.add_row(f"claims in {store}", f"{count:,}")
    table.add_row("users who hold one", f"{books.rush_users:,}")
    table.add_row("answered", f"{tally.claims[RUSH].total():,} in {tally.rush_seconds:.1f} s")
    table.add_row("answers a second", f"{len(latencies) / tally.rush_seconds:,.0f}")
    table.add_row("half within, 99 % within", f"{_at(latencies, 0.5):.0f}, {_at(latencies, 0.99):.0f} ms")
    return table


def _budgets(books: Books) -> Table:
    table = _table(f"Budgets, {CURRENCY} (Redis)", "", *(budget["budget_id"] for budget in books.budgets))
    whole = [budget["periods"].get("") or {} for budget in books.budgets]
    limits = [budget["limit_minor"] for budget in books.budgets]
    table.add_row("limit", *(_major(limit) for limit in limits))
    for name in ("reserved", "committed", "credited"):
        table.add_row(name, *(_major(period.get(f"{name}_minor", 0)) for period in whole))
    table.add_row(
        "available",
        *(_major(period.get("available_minor", limit)) for period, limit in zip(whole, limits, strict=True)),
    )
    table.add_row("thresholds", *(_thresholds(period) for period in whole))
    return table


def _thresholds(period: dict[str, Any]) -> str:
    return (
        ", ".join(f"{percent}" for percent in period.get("thresholds_percent", ())) + " %"
        if period.get("thresholds_percent")
        else "–"
    )


def _sagas(books: Books) -> Table:
    table = _table("Sagas stand at", "step", "orders")
    for step, count in books.saga_steps.most_common():
        table.add_row(step, f"{count:,}")
    return table


def _orders(books: Books) -> Table:
    table = _table(f"Orders, {CURRENCY} (ClickHouse)", "", "")
    for name in ("placed", "cancelled", "completed", "released", "refused"):
        table.add_row(name, f"{books.orders[name]:,}")
    for name in ("total", "discount", "paid", "refunded"):
        table.add_row(name, _major(books.orders[f"{name}_minor"]))
    return table


def _refusals(tally: Tally) -> Table:
    table = _table("Coupons refused at checkout", "why", "")
    for code, count in tally.told.refusals.most_common():
        table.add_row(code, f"{count:,}")
    return table


def clean_verdict(breaks: Sequence[Found], verified: Report) -> RenderableType:
    """Whether the day's books balance."""
    reconciled = ("✓ reconciliation: zero breaks", "green") if not breaks else (f"✗ {len(breaks)} breaks", "bold red")
    invariants = (
        ("✓ verify: I1 to I12 hold, event store = Redis = ClickHouse", "green")
        if verified.holds
        else (f"✗ verify: {len(verified.violations)} violations", "bold red")
    )
    return Group(Text(), Text(*reconciled), Text(*invariants))


def planted_against_reported(planted: Sequence[Planted], breaks: Sequence[Found], verified: Report) -> RenderableType:
    """Fault by fault: planted and reported."""
    reported = Counter((each.kind, each.subject) for each in breaks)
    broken = Counter(each.invariant for each in verified.violations)
    table = _table("Planted, and reported", "break", "how it was planted", "found", left=2, wraps="how it was planted")
    for fault in planted:
        count = reported[fault.kind, fault.subject]
        verdict = Text("✓", "green") if count == 1 else Text(f"✗ {count} times", "bold red")
        table.add_row(fault.kind, fault.how, verdict)
    others = [each for each in breaks if (each.kind, each.subject) not in {(f.kind, f.subject) for f in planted}]
    for each in others:
        table.add_row(Text(each.kind, "red"), f"not planted: {each.detail}", Text("✗", "bold red"))
    by_verify = ", ".join(f"{name} ×{count}" for name, count in sorted(broken.items()))
    return Group(Text(), table, Text(f"verify, too, names what was done to the log and to Redis: {by_verify}", "dim"))


def differences(planted: Sequence[Planted], breaks: Sequence[Found], verified: Report) -> list[str]:
    """Whatever was planted and not reported, or reported and not planted, in words."""
    expected = {(fault.kind, fault.subject) for fault in planted}
    found = {(each.kind, each.subject) for each in breaks}
    wrong = [f"planted, but not reported: {kind} on {subject}" for kind, subject in sorted(expected - found)]
    wrong += [f"reported, but not planted: {kind} on {subject}" for kind, subject in sorted(found - expected)]
    must = frozenset().union(*(fault.breaks for fault in planted))
    named = {each.invariant for each in verified.violations}
    wrong += [f"verify did not name {invariant}" for invariant in sorted(must - named)]
    wrong += [f"verify names {invariant}, which nobody broke" for invariant in sorted(named - must)]
    return wrong


def figures(books: Books, tally: Tally, day: Day) -> dict[str, Any]:
    """For ``--json``."""
    latencies = sorted(tally.rush_latencies)
    return {
        "events": books.events,
        "commands": books.commands,
        "rush": {
            "users": len(day.rush_users),
            "stock": day.rush_stock,
            "claims": dict(books.rush_claims),
            "seconds": round(tally.rush_seconds, 3),
            "latency_ms": {"p50": round(_at(latencies, 0.5), 1), "p99": round(_at(latencies, 0.99), 1)},
        },
        "funnel": books.funnel,
        "saga_steps": dict(books.saga_steps),
        "orders": dict(books.orders),
        "event_types": books.timeline,
    }


def closing(wrong: Sequence[str], seconds: float, keep: Path | None) -> RenderableType:
    """The verdict and what to try next."""
    if wrong:
        more = [f"… and {len(wrong) - WRONG_SHOWN_MAX} more"] if len(wrong) > WRONG_SHOWN_MAX else []
        listed = "\n".join(f"• {line}" for line in [*wrong[:WRONG_SHOWN_MAX], *more])
        return Panel(Text(f"Not as it must be, after {seconds:.1f} s:\n{listed}"), style="red", box=box.ROUNDED)
    try_next = Table.grid(padding=(0, 2))
    for line, what in _next_steps(keep):
        try_next.add_row(Text(line, "bold"), Text(what, "dim"))
    text = Text(f"✓ Everything is as it must be. {seconds:.1f} s.\n", "bold green")
    return Group(Text(), Panel(Group(text, Text("Try next:"), try_next), style="green", box=box.ROUNDED))


def _next_steps(keep: Path | None) -> list[tuple[str, str]]:
    tessera = as_typed("tessera")
    if keep is None:
        return [
            (f"{tessera} demo --seed 8", "another day"),
            (f"{tessera} demo --keep day", "the same, and the data stays: then"),
            (f"{tessera} up --data-dir day", "look around: curl, redis-cli, SQL"),
            (f"{tessera} up", "an empty stack of your own"),
        ]
    return [
        (f"{tessera} up --data-dir {keep}", "up again; in another terminal:"),
        (f"export TESSERA_DATA_DIR={keep}", ""),
        (f"{tessera} reconcile breaks", "the planted faults"),
        (f"{tessera} sagas list", "where every order stands, why"),
        (f"{tessera} projections rebuild budget", "heal what was damaged in Redis"),
        (f"{tessera} verify", "name what the log still has"),
    ]


def _major(amount_minor: int) -> str:
    return f"{to_major(amount_minor, CURRENCY):,.2f}"


def _at(sorted_seconds: Sequence[float], share: float) -> float:
    """A quantile, in milliseconds."""
    return (
        1_000 * sorted_seconds[min(len(sorted_seconds) - 1, int(share * len(sorted_seconds)))]
        if sorted_seconds
        else 0.0
    )
