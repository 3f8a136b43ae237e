"""Codes: a batch at a time, and using one, which is a claim."""

from collections.abc import Sequence
from typing import Final

from command.domain import code as codes
from command.domain.code import CODE, CODE_BATCH, CodeBatch, Counted, Range, batches_key, spent_key
from command.domain.coupon import Origin
from command.domain.template import TEMPLATE
from command.handlers.claims import claim_counters, take_coupon
from command.handlers.handler import Data
from command.unit_of_work import UnitOfWork
from contracts.codes import CODES_PER_BLOCK, code_key_of
from contracts.commands import AssignCodes, GenerateCodes, UseCode, VoidCode, VoidCodes
from contracts.refusals import CodesExhausted, TooMany

CODES: Final = "codes"  # The guard counter of all codes of a realm.
LOOK_AHEAD: Final = 100
LOOKED_AT_MAX: Final = 10_000


def generate(uow: UnitOfWork, command: GenerateCodes) -> Data:
    """A batch: one event, however many codes. They follow from the key, the batch's number and their index."""
    batches = batches_key(command.key_id)
    template = uow.load(TEMPLATE, command.template_id)
    events = codes.generate(template, command, uow.count(batches) + 1, uow.count(CODES), now=uow.now)
    batch_id = events[0].batch_id
    uow.add(batches, 1)
    uow.add(CODES, command.count)
    uow.create(CODE_BATCH, batch_id, events)
    return {"batch_id": batch_id, "template_id": command.template_id, "count": command.count, "first_index": 0}


def use(uow: UnitOfWork, command: UseCode) -> Data:
    """The code's coupon for the user, by the rules of a claim; a claim that is refused leaves the code as it was."""
    key = code_key_of(command.batch_id, command.index)
    batch, code = uow.load(CODE_BATCH, command.batch_id), uow.load(CODE, key)
    codes.require_use(batch, code, command.index, command.user_id, now=uow.now)
    claimed = take_coupon(uow, batch.template_id, command.user_id, Origin("code", command.batch_id))
    uow.record(CODE, key, codes.use(batch, command.index, command.user_id, claimed["coupon_id"]))
    uow.add(Counted.USED.key(command.batch_id), 1)
    uow.add(_spent_key(command.batch_id, command.index), 1)
    if code.status == "assigned":
        uow.add(Counted.ASSIGNED.key(command.batch_id), -1)
    return {**claimed, "batch_id": command.batch_id}


def counters(uow: UnitOfWork, command: UseCode) -> list[str]:
    """The guard counters of the claim that using the code is."""
    batch = uow.load(CODE_BATCH, command.batch_id)
    if not batch.exists:
        return []
    own = [Counted.USED.key(command.batch_id), _spent_key(command.batch_id, command.index)]
    if uow.load(CODE, code_key_of(command.batch_id, command.index)).status == "assigned":
        own.append(Counted.ASSIGNED.key(command.batch_id))
    return [*claim_counters(uow, batch.template_id, command.user_id), *own]


def assign(uow: UnitOfWork, command: AssignCodes) -> Data:
    """Codes that nothing happened to yet, one for each user; the answer names them by index, in the users' order."""
    batch = uow.load(CODE_BATCH, command.batch_id)
    codes.require_assignable(batch, len(command.user_ids), now=uow.now)
    indices = _free(uow, batch, len(command.user_ids))
    taken, assigned = codes.assign(batch, indices, command.user_ids)
    uow.record(CODE_BATCH, command.batch_id, (taken,))
    for index, event in zip(indices, assigned, strict=True):
        uow.record(CODE, code_key_of(command.batch_id, index), (event,))
    uow.add(Counted.ASSIGNED.key(command.batch_id), len(indices))
    return {"batch_id": command.batch_id, "indices": indices}


def void_one(uow: UnitOfWork, command: VoidCode) -> Data:
    """Assigned or not, unless it was used."""
    key = code_key_of(command.batch_id, command.index)
    batch, code = uow.load(CODE_BATCH, command.batch_id), uow.load(CODE, key)
    if events := codes.void_one(batch, code, command.index, command.reason):
        uow.record(CODE, key, events)
        uow.add(Counted.VOIDED.key(command.batch_id), 1)
        uow.add(_spent_key(command.batch_id, command.index), 1)
        if code.status == "assigned":
            uow.add(Counted.ASSIGNED.key(command.batch_id), -1)
    return {"batch_id": command.batch_id, "index": command.index}


def void_many(uow: UnitOfWork, command: VoidCodes) -> Data:
    """A range or all: one event."""
    batch = uow.load(CODE_BATCH, command.batch_id)
    last = _last_index(batch, command)
    new = codes.not_void_in(batch, command.first_index, last)
    spent = sum(_spent(uow, batch, block, new) for block in _blocks(new))
    uow.record(CODE_BATCH, command.batch_id, codes.void_ranges(batch, new, spent, command.reason))
    return {"batch_id": command.batch_id, "first_index": command.first_index, "last_index": last}


def spent_counters(uow: UnitOfWork, command: VoidCodes) -> list[str]:
    """The guard counters of the blocks that a range lies in."""
    batch = uow.load(CODE_BATCH, command.batch_id)
    last = _last_index(batch, command)
    new = codes.not_void_in(batch, command.first_index, last)
    return [spent_key(batch.batch_id, block) for block in _blocks(new)]


def _last_index(batch: CodeBatch, command: VoidCodes) -> int:
    return max(batch.count - 1, 0) if command.last_index is None else command.last_index


def _spent_key(batch_id: str, index: int) -> str:
    return spent_key(batch_id, index // CODES_PER_BLOCK)


def _blocks(ranges: Sequence[Range]) -> list[int]:
    """The blocks that these ranges touch, each once."""
    return sorted(
        {block for first, last in ranges for block in range(first // CODES_PER_BLOCK, last // CODES_PER_BLOCK + 1)}
    )


def _spent(uow: UnitOfWork, batch: CodeBatch, block: int, ranges: Sequence[Range]) -> int:
    """How many codes of these ranges in one block are used, or void one by one. Looks at codes only where it must."""
    spent = uow.count(spent_key(batch.batch_id, block))
    start, end = block * CODES_PER_BLOCK, min((block + 1) * CODES_PER_BLOCK, batch.count)
    inside = [index for first, last in ranges for index in range(max(first, start), min(last + 1, end))]
    if spent == 0 or len(inside) == end - start:
        return spent
    states = uow.load_all(CODE, [code_key_of(batch.batch_id, index) for index in inside])
    return sum(state.status in {"used", "voided"} for state in states)


def _free(uow: UnitOfWork, batch: CodeBatch, wanted: int) -> list[int]:
    """The next indices that nobody used, got or voided; used ones are passed over.

    Raises CodesExhausted, or TooMany after LOOKED_AT_MAX codes: a batch is given out one by one or printed, not both.
    """
    found: list[int] = []
    index, looked_at = batch.next_index, 0
    while len(found) < wanted and index < batch.count:
        if (end := batch.void_until(index)) is not None:
            index = end + 1
            continue
        window = range(index, min(index + max(wanted - len(found), LOOK_AHEAD), batch.count))
        candidates = [each for each in window if not batch.is_voided(each)]
        states = uow.load_all(CODE, [code_key_of(batch.batch_id, each) for each in candidates])
        found += [each for each, state in zip(candidates, states, strict=True) if state.status == "generated"]
        index, looked_at = window.stop, looked_at + len(window)
        if len(found) < wanted and looked_at >= LOOKED_AT_MAX:
            raise TooMany(f"The next {looked_at} codes are used already; assign from another batch.")
    if len(found) < wanted:
        raise CodesExhausted(left=len(found))
    return found[:wanted]
