"""Reads both sides of a shared budget: states folded from the logs, and the time of each store."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import psycopg

from command.decisions import BatchView, Target
from command.domain import leases
from command.domain.budget import BUDGET, Budget
from command.ports import EventLog, StoreUnavailable
from command.states import SnapshotFormats
from contracts.commands import CloseBudgetLease, OpenBudgetLease
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm, parse_stream
from contracts.leases import NOTHING_HERE, TERM_SECONDS_MAX, HomeBooks, Lent, Purse
from contracts.refusals import Refusal
from infra.postgres import leases as rows
from infra.postgres.connections import connect, translated
from sagas.leases import NEVER_LENT, next_steps


class Executes(Protocol):
    """What the keeper needs of an engine."""

    def execute(self, envelope: CommandEnvelope, timeout_seconds: float = 30.0) -> Answer:
        """Queue one command and wait for its answer."""
        ...


class Side(NamedTuple):
    """A budget's state on one side, at a version, and what time it is there."""

    budget: Budget
    version: int
    now: datetime


class Store:
    """One shard's store, as the keeper needs it. For one thread. Without an engine it can only be looked at."""

    def __init__(self, dsn: str, log: EventLog, engine: Executes | None = None) -> None:
        self._engine = engine
        self._dsn = dsn
        self._log = log
        self._formats = SnapshotFormats()
        self._connection: psycopg.Connection[Any] | None = None

    def execute(self, envelope: CommandEnvelope) -> Answer:
        """Send a command and wait for its answer. Raises what the engine raises."""
        assert self._engine is not None, "a store that is only looked at"
        return self._engine.execute(envelope)

    def shared_budgets(self) -> list[str]:
        """The streams of all budgets that were ever shared. Raises StoreUnavailable."""
        with translated():
            return rows.shared_budgets(self._connected())

    def versions(self, streams: list[str]) -> dict[str, int]:
        """How far these streams are. Raises StoreUnavailable."""
        with translated():
            return rows.versions(self._connected(), streams)

    def side(self, stream: str) -> Side:
        """A budget as it is here. Raises StoreUnavailable."""
        with self._log.reading() as view:
            batch = BatchView(view, None, self._formats)
            entry = batch.entry(Target(stream, BUDGET))
            return Side(entry.state, entry.version, batch.now_of(parse_stream(stream).realm))

    def close(self) -> None:
        """Give the connection back; it is opened again when it is needed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is not None and self._connection.closed:
            self._connection = None
        if self._connection is None:
            self._connection = connect(self._dsn, name="leases", autocommit=True)
        return self._connection


class Account(NamedTuple):
    """One holder's part of one budget and period, for people: what home lent, and what the holder says of it."""

    realm: Realm
    budget_id: str
    holder: str
    period: str
    shared: bool
    lent: Lent
    purse: Purse | None  # None: the holder's store is not known here, or is away.
    reserved_minor: int
    refused: str  # Why the holder will not take in what is under way to it: code and words; "" where it will.
    overdue_seconds: float  # Since the end of a lease that still reserves money; 0 before it.


def home_books(side: Side, holder: str) -> HomeBooks:
    """Home's books for one holder."""
    return leases.home_books(side.budget, holder, now=side.now)


def holders_of(side: Side) -> list[str]:
    """Everybody who has or had a part of the budget."""
    return sorted({*side.budget.lending.holders, *(holder for (_, holder), _ in side.budget.lending.lent)})


def accounts(home: Store, holders: Mapping[str, Store]) -> list[Account]:
    """Every part of every shared budget. A holder that is away is shown as such. Raises StoreUnavailable of home."""
    found: list[Account] = []
    for stream in home.shared_budgets():
        name, side = parse_stream(stream), home.side(stream)
        for holder in holders_of(side):
            there = _budget_of(holders.get(holder), stream)
            purses = None if there is None else leases.purses(there)
            books = home_books(side, holder)
            is_taken = there is not None and leases.is_taken(there) and books.shared
            for period, lent in (books.lent or ({books.present_period: NEVER_LENT} if is_taken else {})).items():
                reserved = max(lent.out_minor, 0)
                overdue = max((side.now - lent.until).total_seconds(), 0.0) if reserved else 0.0
                shared = holder in side.budget.lending.holders
                purse = None if purses is None else purses.get(period, NOTHING_HERE)
                refused = "" if there is None else _refused(books, period, side, there)
                found.append(
                    Account(name.realm, name.key, holder, period, shared, lent, purse, reserved, refused, overdue)
                )
    return found


def _budget_of(store: Store | None, stream: str) -> Budget | None:
    if store is None:
        return None
    try:
        return store.side(stream).budget
    except StoreUnavailable:
        return None


def _refused(home: HomeBooks, period: str, side: Side, there: Budget) -> str:
    """What the holder's decider says of the keeper's next step there: it is pure, so that anybody may ask it."""
    if leases.is_taken(there):
        refusal = leases.id_is_taken(home.budget_id)
        return f"{refusal.code}: {refusal.detail}" if home.shared else ""
    steps = next_steps(home, leases.purses(there), now=side.now, term_seconds=TERM_SECONDS_MAX)
    try:
        for step in steps:
            if isinstance(step.command, OpenBudgetLease) and step.command.period == period:
                leases.open_lease(there, step.command)
            elif isinstance(step.command, CloseBudgetLease) and step.command.period == period:
                leases.close_lease(there, step.command)
    except Refusal as refusal:
        return f"{refusal.code}: {refusal.detail}"
    return ""
