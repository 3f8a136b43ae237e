"""Batches of codes as the log knows them: what was generated, and how many are assigned, used and void."""

from dataclasses import dataclass
from typing import Any

from command.domain.code import CODE_BATCH, Counted, evolve_batch
from command.ports import EventLog
from contracts.events import CodeBatchGenerated
from contracts.identity import Realm, stream_id
from contracts.values import ID_LENGTH_MAX


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch: how it was generated, and a view of where its codes stand."""

    generated: CodeBatchGenerated
    view: dict[str, Any]


def find_batch(log: EventLog, realm: Realm, batch_id: str) -> BatchRecord | None:
    """The batch of this id, or None. Blocks. Raises StoreUnavailable."""
    if not batch_id.isprintable() or len(batch_id) > ID_LENGTH_MAX:
        return None
    stream = stream_id(realm, CODE_BATCH.name, batch_id)
    counters = {each: f"{realm.key}/{each.key(batch_id)}" for each in Counted}
    with log.reading() as view:
        history = view.histories((stream,)).get(stream)
        counts = view.counts(list(counters.values())) if history is not None else {}
    if history is None:
        return None
    generated = history.events[0].event
    assert isinstance(generated, CodeBatchGenerated)
    state = CODE_BATCH.initial
    for recorded in history.events:
        state = evolve_batch(state, recorded.event)
    counted = {each: counts.get(counters[each], 0) for each in Counted}
    shown = generated.model_dump(mode="json", exclude={"number", "count"}) | {
        "generated_at": history.events[0].metadata.occurred_at.isoformat(),
        "generated": generated.count,
        "assigned": counted[Counted.ASSIGNED],
        "used": counted[Counted.USED],
        "voided": counted[Counted.VOIDED] + state.voided_codes,
        "void_ranges": [{"first_index": first, "last_index": last} for first, last in state.voided],
    }
    return BatchRecord(generated, shown)
