"""What the stores should hold, worked out by other means than the followers': all in memory, event by event."""

from collections.abc import Sequence

from contracts.envelope import Recorded
from contracts.read_models import bucket_key
from infra.redis.models import digest, encode
from projections.catalog import READ_MODELS
from projections.facts import rows_of
from projections.model import Entry, Place, ReadModel, apply_once


def entries(model: ReadModel, log: Sequence[Recorded]) -> dict[Place, Entry]:
    """A model folded one event at a time."""
    found: dict[Place, Entry] = {}
    for recorded in log:
        if recorded.name.kind in model.kinds:
            for place in model.route(recorded):
                if (entry := apply_once(model, found.get(place), recorded)) is not None:
                    found[place] = entry
    return found


def checksums(log: Sequence[Recorded]) -> dict[str, str]:
    """What `ProjectionService.checksums` must say of every read model."""
    return {model.name: checksum(model, log) for model in READ_MODELS.values()}


def checksum(model: ReadModel, log: Sequence[Recorded]) -> str:
    """One model's."""
    total, documents = 0, 0
    for place, entry in entries(model, log).items():
        documents += 1
        tag = bucket_key(model.name, 1, place.realm, place.key).removeprefix(f"{model.name}:v1:")
        total += digest(tag, place.field.encode(), encode(entry))
        if model.listed:
            total += digest(tag, place.field.encode(), b"%d" % entry.first)
    return f"{documents}:{total % (1 << 128):032x}"


def row_counts(log: Sequence[Recorded]) -> dict[str, int]:
    """How many rows each fact table must have, duplicates apart."""
    counts: dict[str, int] = {}
    for recorded in log:
        if (found := rows_of(recorded)) is not None:
            table, rows = found
            counts[table.name] = counts.get(table.name, 0) + len(rows)
    return counts
