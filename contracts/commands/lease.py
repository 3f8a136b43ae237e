"""Lending a budget's money: an operator shares a budget, the keeper of leases does the rest, each step once."""

from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field

from contracts.commands.base import Command
from contracts.leases import TERM_SECONDS_MAX, TERM_SECONDS_MIN, BranchTerms, Statement
from contracts.values import AmountMinor, Id, Instant

Number = Annotated[int, Field(gt=0)]
Period = Annotated[str, Field(max_length=32)]


SHARD_MAX: Final = 32_767


def _shard_number(holder: str) -> str:
    if not (holder.isascii() and holder.isdigit()) or str(int(holder)) != holder or int(holder) > SHARD_MAX:
        raise ValueError('must be the number of another shard, like "1"')
    return holder


Shard = Annotated[Id, AfterValidator(_shard_number)]


class ShareBudget(Command):
    """Let another shard spend from a budget: money is leased to it in chunks."""

    type: ClassVar[str] = "share_budget"

    budget_id: Id
    holder: Shard


class UnshareBudget(Command):
    """Lease nothing more to a shard; what it has not spent comes back."""

    type: ClassVar[str] = "unshare_budget"

    budget_id: Id
    holder: Id


class GrantBudgetLease(Command):
    """At home: lend the next chunk, at least ``need_minor`` if there is so much. ``number`` follows the last one.

    ``free_minor`` is what the holder has left already: a chunk fills up to its size, it is not put on top.
    """

    type: ClassVar[str] = "grant_budget_lease"

    budget_id: Id
    holder: Id
    period: Period
    number: Number
    need_minor: AmountMinor
    free_minor: AmountMinor
    term_seconds: Annotated[int, Field(ge=TERM_SECONDS_MIN, le=TERM_SECONDS_MAX)]


class SettleBudgetLease(Command):
    """At home: take over what the holder's books say."""

    type: ClassVar[str] = "settle_budget_lease"

    budget_id: Id
    holder: Id
    period: Period
    statement: Statement


class OpenBudgetLease(Command):
    """At the holder: spend what home has lent, and decide what waited for it."""

    type: ClassVar[str] = "open_budget_lease"

    budget_id: Id
    period: Period
    number: Number
    amount_minor: AmountMinor
    left_minor: AmountMinor
    until: Instant
    terms: BranchTerms


class CloseBudgetLease(Command):
    """At the holder: spend nothing more of the leases up to ``number``, and give up what is free of them."""

    type: ClassVar[str] = "close_budget_lease"

    budget_id: Id
    period: Period
    number: AmountMinor  # 0: none ever came.
    terms: BranchTerms
    final: bool = False
