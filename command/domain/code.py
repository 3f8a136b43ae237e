"""Batches of codes and single codes: generated, assigned, used or voided.

A code that nothing happened to has no stream; what concerns many of them is on the batch's. So the state of a batch is
bounded whatever its size, and a code is decided by two small states. Whether a text *is* a code was settled before: its
batch and index came out of a cipher. Expired, voided and unknown codes are refused alike, so that nobody learns which
ones ever existed.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Final, Literal

from command.domain.calendar import NO_INSTANT
from command.domain.ids import guard_key
from command.domain.template import Template, is_over
from command.unit_of_work import Kind
from contracts.codes import BATCH_NUMBER_MAX, CODES_PER_REALM_MAX, batch_id_of
from contracts.commands import GenerateCodes
from contracts.events import (
    CodeAssigned,
    CodeBatchAssigned,
    CodeBatchGenerated,
    CodeBatchVoided,
    CodeUsed,
    CodeVoided,
    Event,
)
from contracts.events.code import IndexRange
from contracts.refusals import (
    CodesExhausted,
    CodeWasUsed,
    Ended,
    NotOwner,
    TooMany,
    UnknownCode,
    UnknownCodeBatch,
    UnknownTemplate,
)

VOID_RANGES_MAX: Final = 1_000

Range = tuple[int, int]  # First and last index, both included.


class Counted(Enum):
    """What is counted per batch, so that nobody has to look at every code: one counter each."""

    ASSIGNED = "codes_assigned"  # And neither used nor voided one by one.
    USED = "codes_used"
    VOIDED = "codes_voided"  # One by one; ranges are in the batch's state.

    def key(self, batch_id: str) -> str:
        """The guard counter's key."""
        return guard_key(self.value, batch_id)


def batches_key(key_id: str) -> str:
    """The counter of the batches that were sealed under a key."""
    return guard_key("code_batches", key_id)


def spent_key(batch_id: str, block: int) -> str:
    """The counter of codes used or void one by one in the ``block``-th CODES_PER_BLOCK of a batch."""
    return guard_key("codes_spent", batch_id, str(block))


@dataclass(frozen=True, slots=True)
class CodeBatch:
    """What decisions need to know of a batch. ``voided``: ranges (first, last), in order, none next to another."""

    exists: bool = False
    batch_id: str = ""
    template_id: str = ""
    count: int = 0
    valid_until: datetime = NO_INSTANT
    never_ends: bool = True
    next_index: int = 0
    voided: tuple[Range, ...] = ()
    voided_codes: int = 0  # In these ranges, without those that were used, or void one by one, before.

    def is_voided(self, index: int) -> bool:
        """Whether the code lies in a range that was voided."""
        return self.void_until(index) is not None

    def void_until(self, index: int) -> int | None:
        """The last index of the voided range that the code lies in, if it does."""
        nth = bisect_right(self.voided, index, key=lambda each: each[0]) - 1
        return self.voided[nth][1] if nth >= 0 and index <= self.voided[nth][1] else None

    def is_over(self, now: datetime) -> bool:
        """Whether the codes are no longer good, from the instant itself."""
        return not self.never_ends and now >= self.valid_until


@dataclass(frozen=True, slots=True)
class Code:
    """What happened to one code. ``user_id``: whose it is, or who used it."""

    status: Literal["generated", "assigned", "used", "voided"] = "generated"
    user_id: str = ""
    coupon_id: str = ""


def evolve_batch(batch: CodeBatch, event: Event) -> CodeBatch:
    """Fold one event of a batch's stream."""
    match event:
        case CodeBatchGenerated():
            return CodeBatch(
                exists=True,
                batch_id=event.batch_id,
                template_id=event.template_id,
                count=event.count,
                valid_until=event.valid_until or NO_INSTANT,
                never_ends=event.valid_until is None,
            )
        case CodeBatchAssigned():
            return replace(batch, next_index=event.next_index)
        case CodeBatchVoided():
            ranges = [*batch.voided, *((each.first_index, each.last_index) for each in event.ranges)]
            codes = sum(each.last_index - each.first_index + 1 for each in event.ranges)
            took = codes if event.codes is None else event.codes
            return replace(batch, voided=_merged(ranges), voided_codes=batch.voided_codes + took)
    return batch


def evolve_code(code: Code, event: Event) -> Code:
    """Fold one event of a code's stream."""
    match event:
        case CodeAssigned():
            return replace(code, status="assigned", user_id=event.user_id)
        case CodeUsed():
            return Code("used", event.user_id, event.coupon_id)
        case CodeVoided():
            return replace(code, status="voided")
    return code


CODE_BATCH: Final = Kind("code_batch", CodeBatch, CodeBatch(), evolve_batch)
CODE: Final = Kind("code", Code, Code(), evolve_code)


def generate(
    template: Template, wanted: GenerateCodes, number: int, codes_before: int, *, now: datetime
) -> tuple[CodeBatchGenerated]:
    """A batch, the ``number``-th of its key, in a realm that has ``codes_before`` already."""
    if template.status == "none":
        raise UnknownTemplate
    if is_over(template, now):
        raise Ended("The template has ended.")
    if wanted.valid_until is not None and wanted.valid_until <= now:
        raise Ended("The codes would have ended already.")
    if number > BATCH_NUMBER_MAX or codes_before + wanted.count > CODES_PER_REALM_MAX:
        raise TooMany(f"At most {CODES_PER_REALM_MAX} codes, in {BATCH_NUMBER_MAX} batches of a key.")
    generated = CodeBatchGenerated(
        batch_id=batch_id_of(wanted.key_id, number),
        template_id=wanted.template_id,
        campaign_id=template.current.campaign_id,
        name=wanted.name,
        key_id=wanted.key_id,
        number=number,
        count=wanted.count,
        valid_until=wanted.valid_until,
    )
    return (generated,)


def require_use(batch: CodeBatch, code: Code, index: int, user_id: str, *, now: datetime) -> None:
    """Refuse unless this user may use the code now."""
    if not batch.exists or index >= batch.count:
        raise UnknownCode
    if code.status == "used":
        raise CodeWasUsed(**({"coupon_id": code.coupon_id} if code.user_id == user_id else {}))
    if code.status == "voided" or batch.is_voided(index) or batch.is_over(now):
        raise UnknownCode
    if code.status == "assigned" and code.user_id != user_id:
        raise NotOwner("The code was given to somebody else.")


def use(batch: CodeBatch, index: int, user_id: str, coupon_id: str) -> tuple[Event, ...]:
    """The code is used up by the coupon that it claimed."""
    used = CodeUsed(
        batch_id=batch.batch_id, index=index, template_id=batch.template_id, user_id=user_id, coupon_id=coupon_id
    )
    return (used,)


def require_assignable(batch: CodeBatch, users: int, *, now: datetime) -> None:
    """Refuse unless so many codes may still be there to be given."""
    _require_batch(batch)
    if batch.is_over(now):
        raise Ended("The batch has ended.")
    if batch.count - batch.next_index < users:
        raise CodesExhausted(left=batch.count - batch.next_index)


def assign(
    batch: CodeBatch, indices: Sequence[int], user_ids: Sequence[str]
) -> tuple[CodeBatchAssigned, tuple[CodeAssigned, ...]]:
    """One code for each user; ``indices`` in order, as found free. What the batch records, and what each code does."""
    assigned = tuple(
        CodeAssigned(batch_id=batch.batch_id, index=index, template_id=batch.template_id, user_id=user_id)
        for index, user_id in zip(indices, user_ids, strict=True)
    )
    taken = CodeBatchAssigned(
        batch_id=batch.batch_id,
        template_id=batch.template_id,
        assigned=len(indices),
        next_index=indices[-1] + 1,
    )
    return taken, assigned


def void_one(batch: CodeBatch, code: Code, index: int, reason: str) -> tuple[Event, ...]:
    """Take one code out of use; nothing when it is already."""
    _require_batch(batch)
    if index >= batch.count:
        raise UnknownCode
    if code.status == "used":
        raise CodeWasUsed
    if code.status == "voided" or batch.is_voided(index):
        return ()
    return (CodeVoided(batch_id=batch.batch_id, index=index, template_id=batch.template_id, reason=reason),)


def not_void_in(batch: CodeBatch, first: int, last: int) -> Sequence[Range]:
    """The ranges of ``[first, last]`` that are not void yet. Raises a refusal when the batch has not these codes."""
    _require_batch(batch)
    if not first <= last < batch.count:
        raise UnknownCode("The batch has not so many codes.", count=batch.count)
    return _gaps(batch.voided, first, last)


def void_ranges(batch: CodeBatch, new: Sequence[Range], spent: int, reason: str) -> tuple[Event, ...]:
    """Take ranges, not void yet, out of use; ``spent`` of their codes were used, or void one by one, before."""
    if not new:
        return ()
    if len(_merged([*batch.voided, *new])) > VOID_RANGES_MAX:
        raise TooMany(f"At most {VOID_RANGES_MAX} ranges of a batch are void; void larger ones.")
    voided = CodeBatchVoided(
        batch_id=batch.batch_id,
        template_id=batch.template_id,
        ranges=tuple(IndexRange(first_index=start, last_index=end) for start, end in new),
        reason=reason,
        codes=sum(end - start + 1 for start, end in new) - spent,
    )
    return (voided,)


def _require_batch(batch: CodeBatch) -> None:
    if not batch.exists:
        raise UnknownCodeBatch


def _merged(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """The same indices in as few ranges as possible, in order."""
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _gaps(ranges: Sequence[Range], first: int, last: int) -> list[Range]:
    """What of ``[first, last]`` no range covers yet."""
    gaps: list[Range] = []
    for start, end in ranges:
        if end < first or start > last:
            continue
        if first < start:
            gaps.append((first, start - 1))
        first = end + 1
    return [*gaps, (first, last)] if first <= last else gaps
