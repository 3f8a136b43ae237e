"""Batches of codes as the log knows them: what was generated, and how many are assigned, used and void."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from command.domain.code import CODE_BATCH, Counted, batches_key, evolve_batch
from command.ports import EventLog, ReadView, StreamHistory
from contracts.codes import batch_id_of
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
    with log.reading() as view:
        return next(iter(_records(view, realm, [batch_id])), None)


def batches_before(
    log: EventLog, realm: Realm, key_ids: Sequence[str], before: tuple[str, int] | None, limit: int
) -> list[BatchRecord]:
    """A realm's batches, those of the latest key first and of each the latest first: from before one (key, number) on.

    ``key_ids``: all keys of the realm, the latest first. Blocks. Raises StoreUnavailable.
    """
    if before is not None:
        key_ids = key_ids[key_ids.index(before[0]) :] if before[0] in key_ids else ()
    counters = {key_id: f"{realm.key}/{batches_key(key_id)}" for key_id in key_ids}
    with log.reading() as view:
        made = view.counts(list(counters.values()))
        ids = (
            batch_id_of(key_id, number)
            for key_id, counter in counters.items()
            for number in range(made.get(counter, 0), 0, -1)
            if before is None or key_id != before[0] or number < before[1]
        )
        return _records(view, realm, list(islice(ids, limit)))


def _records(view: ReadView, realm: Realm, batch_ids: Sequence[str]) -> list[BatchRecord]:
    """Those of these batches that there are, in the order of their ids."""
    streams = {batch_id: stream_id(realm, CODE_BATCH.name, batch_id) for batch_id in batch_ids}
    histories = view.histories(list(streams.values()))
    found = [batch_id for batch_id, stream in streams.items() if stream in histories]
    counters = {(each, of): f"{realm.key}/{of.key(each)}" for each in found for of in Counted}
    counts = view.counts(list(counters.values())) if counters else {}
    return [
        _record(histories[streams[each]], {of: counts.get(counters[each, of], 0) for of in Counted}) for each in found
    ]


def _record(history: StreamHistory, counted: Mapping[Counted, int]) -> BatchRecord:
    generated = history.events[0].event
    assert isinstance(generated, CodeBatchGenerated)
    state = CODE_BATCH.initial
    for recorded in history.events:
        state = evolve_batch(state, recorded.event)
    shown = generated.model_dump(mode="json", exclude={"number", "count"}) | {
        "generated_at": history.events[0].metadata.occurred_at.isoformat(),
        "generated": generated.count,
        "assigned": counted[Counted.ASSIGNED],
        "used": counted[Counted.USED],
        "voided": counted[Counted.VOIDED] + state.voided_codes,
        "void_ranges": [{"first_index": first, "last_index": last} for first, last in state.voided],
    }
    return BatchRecord(generated, shown)
