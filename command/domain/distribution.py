"""A distribution: one template given to a list of users, a chunk of rows at a time, by the rules of a claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

from command.domain import template as templates
from command.domain.template import Taken, Template
from command.unit_of_work import Kind
from contracts.commands import StartDistribution
from contracts.events import (
    DistributionAdvanced,
    DistributionCancelled,
    DistributionCompleted,
    DistributionPaused,
    DistributionProgress,
    DistributionResumed,
    DistributionStarted,
    DistributionUsersRefused,
    Event,
    RefusedRows,
)
from contracts.refusals import (
    AlreadyExists,
    DistributionNotRunning,
    DistributionOutOfTurn,
    Refusal,
    UnknownDistribution,
)

Status = Literal["none", "running", "paused", "cancelled", "completed"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What decisions need to know of a distribution. ``runs`` counts how often it was set going."""

    status: Status = "none"
    distribution_id: str = ""
    template_id: str = ""
    users: int = 0
    users_sha256: str | None = None
    next_row: int = 1
    issued: int = 0
    refused: int = 0
    runs: int = 0

    @property
    def progress(self) -> DistributionProgress:
        """Where it stands."""
        return DistributionProgress(users=self.users, next_row=self.next_row, issued=self.issued, refused=self.refused)


def evolve(state: Distribution, event: Event) -> Distribution:
    """Fold one event of the distribution's stream."""
    match event:
        case DistributionStarted():
            return Distribution(
                status="running",
                distribution_id=event.distribution_id,
                template_id=event.template_id,
                users=event.progress.users,
                users_sha256=event.users_sha256,
                runs=1,
            )
        case DistributionAdvanced():
            stands = event.progress
            return replace(state, next_row=stands.next_row, issued=stands.issued, refused=stands.refused)
        case DistributionPaused():
            return replace(state, status="paused")
        case DistributionResumed():
            return replace(state, status="running", runs=state.runs + 1)
        case DistributionCancelled():
            return replace(state, status="cancelled")
        case DistributionCompleted():
            return replace(state, status="completed")
    return state


DISTRIBUTION: Final = Kind("distribution", Distribution, Distribution(), evolve)


# Life cycle -----------------------------------------------------------------------------------------------------------


def start(state: Distribution, template: Template, asked: StartDistribution, *, now: datetime) -> tuple[Event, ...]:
    """Set it going, unless every row would be refused anyway. Told again with the same content, it is done already."""
    if state.status != "none":
        if _is_what_was_asked(state, asked):
            return ()
        raise AlreadyExists(f"There is another distribution {asked.distribution_id}.")
    templates.require_claimable(template, now=now)
    started = DistributionStarted(
        distribution_id=asked.distribution_id,
        template_id=template.template_id,
        progress=DistributionProgress(users=asked.users, next_row=1, issued=0, refused=0),
        users_sha256=asked.users_sha256,
    )
    return (started,)


def _is_what_was_asked(state: Distribution, asked: StartDistribution) -> bool:
    if (state.template_id, state.users) != (asked.template_id, asked.users):
        return False
    # Whoever does not say which list means it; early distributions did not record theirs.
    return asked.users_sha256 is None or state.users_sha256 in {None, asked.users_sha256}


def pause(state: Distribution, reason: str) -> tuple[Event, ...]:
    """Stop before the next chunk."""
    if state.status == "paused":
        return ()
    _require_under_way(state)
    return (
        DistributionPaused(
            distribution_id=state.distribution_id,
            template_id=state.template_id,
            reason=reason,
            progress=state.progress,
        ),
    )


def resume(state: Distribution) -> tuple[Event, ...]:
    """Go on with the next row."""
    if state.status == "running":
        return ()
    _require_under_way(state)
    return (
        DistributionResumed(
            distribution_id=state.distribution_id, template_id=state.template_id, progress=state.progress
        ),
    )


def cancel(state: Distribution, reason: str) -> tuple[Event, ...]:
    """End it for ever."""
    if state.status == "cancelled":
        return ()
    _require_under_way(state)
    return (
        DistributionCancelled(
            distribution_id=state.distribution_id,
            template_id=state.template_id,
            reason=reason,
            progress=state.progress,
        ),
    )


def _require_under_way(state: Distribution) -> None:
    if state.status == "none":
        raise UnknownDistribution
    if state.status in {"cancelled", "completed"}:
        raise DistributionNotRunning(f"The distribution is {state.status}.")


# Chunks ---------------------------------------------------------------------------------------------------------------


def is_decided(state: Distribution, first_row: int, rows: int) -> bool:
    """Whether these rows were decided before. Raises a refusal when they are not the next ones, or must wait."""
    if state.status == "none":
        raise UnknownDistribution
    if first_row + rows <= state.next_row:
        return True
    if state.status != "running":
        raise DistributionNotRunning(f"The distribution is {state.status}.")
    if first_row != state.next_row or first_row + rows - 1 > state.users:
        raise DistributionOutOfTurn(f"Row {state.next_row} of {state.users} is next.", next_row=state.next_row)
    return False


class Allotment(NamedTuple):
    """Who of a chunk gets a coupon, and as their how-manieth of the template; who gets none, and why."""

    claims: Sequence[tuple[str, int]]
    refused: Sequence[RefusedRows]


class Holdings(NamedTuple):
    """What users had of the template before the chunk, by user; whoever is absent had nothing."""

    claimed: Mapping[str, int]
    reserved: Mapping[str, int]
    in_period: Mapping[str, int]


def allot(
    template: Template, user_ids: Sequence[str], holdings: Holdings, first_row: int, *, now: datetime
) -> Allotment:
    """Decide one row after the other, each as a claim of its own would be decided."""
    refused = _Refused()
    try:
        templates.require_claimable(template, now=now)
    except Refusal as refusal:
        for row, user_id in enumerate(user_ids, first_row):
            refused.add(refusal, row, user_id)
        return Allotment([], refused.by_reason())
    claimed_before, reserved_before, in_period_before = holdings
    if _everybody_may(template, user_ids, holdings):
        return Allotment([(user_id, claimed_before.get(user_id, 0) + 1) for user_id in user_ids], ())
    claims: list[tuple[str, int]] = []
    here: dict[str, int] = {}  # Claims of this chunk.
    for row, user_id in enumerate(user_ids, first_row):
        more = here.get(user_id, 0)
        claimed = claimed_before.get(user_id, 0) + more
        taken = Taken(claimed + reserved_before.get(user_id, 0), in_period_before.get(user_id, 0) + more)
        try:
            templates.require_stock(template, len(claims) + 1)
            templates.require_within_limits(template, taken)
        except Refusal as refusal:
            refused.add(refusal, row, user_id)
        else:
            here[user_id] = more + 1
            claims.append((user_id, claimed + 1))
    return Allotment(claims, refused.by_reason())


def _everybody_may(template: Template, user_ids: Sequence[str], holdings: Holdings) -> bool:
    """Whether nobody can be refused: there is stock for all, all are different, and whoever has most may have one more.

    Looked at once for a chunk, it spares looking at every row of one.
    """
    claimed, reserved, in_period = (max(each.values(), default=0) for each in holdings)
    try:
        templates.require_stock(template, len(user_ids))
        templates.require_within_limits(template, Taken(claimed + reserved, in_period))
    except Refusal:
        return False
    return len(set(user_ids)) == len(user_ids)


class _Refused:
    """Rows by reason, in the order in which the reasons came up."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], tuple[list[int], list[str]]] = {}

    def add(self, refusal: Refusal, row: int, user_id: str) -> None:
        rows, user_ids = self._rows.setdefault((refusal.code, refusal.detail), ([], []))
        rows.append(row)
        user_ids.append(user_id)

    def by_reason(self) -> tuple[RefusedRows, ...]:
        return tuple(
            RefusedRows(code=code, detail=detail, rows=tuple(rows), user_ids=tuple(user_ids))
            for (code, detail), (rows, user_ids) in self._rows.items()
        )


def advance(state: Distribution, rows: int, allotment: Allotment) -> tuple[Event, ...]:
    """Record what became of a chunk, and that it was the last one if it was."""
    issued = len(allotment.claims)
    progress = DistributionProgress(
        users=state.users,
        next_row=state.next_row + rows,
        issued=state.issued + issued,
        refused=state.refused + rows - issued,
    )
    about = {"distribution_id": state.distribution_id, "template_id": state.template_id}
    advanced = DistributionAdvanced(
        **about, first_row=state.next_row, issued=issued, refused=rows - issued, progress=progress
    )
    events: list[Event] = []
    if allotment.refused:
        events.append(DistributionUsersRefused(**about, refused=tuple(allotment.refused)))
    events.append(advanced)
    if progress.next_row > progress.users:
        events.append(DistributionCompleted(**about, progress=progress))
    return tuple(events)
