"""A batch as the arguments of the database's ``append_batch_counting``: encoded before anything is locked."""

from collections.abc import Collection, Mapping, Sequence
from itertools import repeat
from struct import Struct
from typing import Final, NamedTuple, Self

import orjson
import psycopg

from command.ports import (
    Batch,
    LoggedAnswer,
    NewEvent,
    NewSeries,
    Snapshot,
    StoreUnavailable,
    StreamConflict,
    parts_of,
)
from infra.postgres.arrays import (
    BIGINT_OID,
    BYTES_OID,
    INTEGER_OID,
    INTEGERS_OID,
    TEXT_OID,
    TEXTS_OID,
    byte_strings,
    encoded_texts,
    integers,
    texts,
)
from infra.postgres.connections import BoundedConnection, Statement
from infra.postgres.mapper import EventMapper

_INTEGER: Final = Struct("!i").pack
_BIGINT: Final = Struct("!q").pack


class BatchRows(NamedTuple):
    """The rows of one batch, in the order of the function's parameters."""

    events_count: int
    columns: tuple[bytes, ...]

    @classmethod
    def of(cls, batch: Batch, mapper: EventMapper) -> Self:
        """Encode a batch. Raises StreamConflict for versions out of turn, ValueError for answers without places."""
        if len(batch.answers) != len(batch.answer_events):
            raise ValueError("every answer needs the index of its last event, or -1")
        last = len(batch.events) - 1
        backs = [last - index if index >= 0 else 0 for index in batch.answer_events]
        columns = (
            *_of_events(batch.events, mapper),
            *_of_answers(batch.answers, backs),
            *_of_counts({key: value for key, value in batch.counts.items() if key not in batch.new_counts}),
            *_of_snapshots(batch.snapshots),
            *_of_counts({key: value for key, value in batch.counts.items() if key in batch.new_counts}),
        )
        return cls(len(batch.events), columns)

    def append(self, connection: BoundedConnection, *, shard: int, epoch: str, head: int) -> Sequence[int]:
        """Append after ``head``, in the connection's transaction or one of its own; returns the events' offsets.

        Raises StreamConflict, and psycopg.errors.SerializationFailure when the log does not end there.
        """
        self.send(connection, shard=shard, epoch=epoch, head=head)
        return self.offsets(connection)

    def send(self, connection: BoundedConnection, *, shard: int, epoch: str, head: int) -> None:
        """Send what :meth:`append` sends, and do not wait for what comes of it."""
        connection.send(_APPEND, (_INTEGER(shard), epoch.encode(), _BIGINT(head), *self.columns))

    def offsets(self, connection: BoundedConnection) -> Sequence[int]:
        """Wait for what was sent. Raises as :meth:`append`."""
        try:
            result = connection.answer_to(_APPEND)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ForeignKeyViolation) as error:
            raise StreamConflict(error.diag.message_detail or str(error)) from error
        if not self.events_count:
            return ()
        first, last = (int.from_bytes(result.get_value(0, column) or b"") for column in (0, 1))
        # The command log counts its offsets back from the last one. Under the lock nobody else draws from the sequence.
        if last - first + 1 != self.events_count:
            raise StoreUnavailable("offsets were given out to somebody who does not hold the append lock")
        return range(first, last + 1)


def _of_events(events: Collection[NewEvent], mapper: EventMapper) -> tuple[bytes, ...]:
    # A new stream's first version follows nothing; only the others can leave a gap.
    grown = {stream: version for stream, version in _first_versions(events).items() if version != 1}
    streams: list[str] = []
    versions: list[int] = []
    types: list[str] = []
    for part in parts_of(events):
        if isinstance(part, NewSeries):
            streams += part.streams
            versions += repeat(1, len(part))
            types += repeat(part.events.like.type, len(part))
        else:
            streams.append(part.stream)
            versions.append(part.version)
            types.append(part.event.type)
    return (
        texts(streams),
        integers(versions),
        texts(types),
        byte_strings(mapper.states_of(events)),
        texts(grown),
        integers(list(grown.values())),
    )


def _of_answers(answers: Sequence[LoggedAnswer], backs: Sequence[int]) -> tuple[bytes, ...]:
    return (
        texts([answer.key.realm.tenant_id for answer in answers]),
        texts([answer.key.realm.app_id for answer in answers]),
        texts([answer.key.command_id for answer in answers]),
        texts([answer.command_type for answer in answers]),
        texts([answer.content_hash for answer in answers]),
        texts([answer.status for answer in answers]),
        texts([answer.code for answer in answers]),
        texts([answer.detail for answer in answers]),
        encoded_texts([orjson.dumps(answer.data) for answer in answers]),
        integers(backs),
    )


def _of_counts(counts: Mapping[str, int]) -> tuple[bytes, ...]:
    return texts(counts), integers(list(counts.values()))


def _of_snapshots(snapshots: Sequence[Snapshot]) -> tuple[bytes, ...]:
    return (
        texts([snapshot.stream for snapshot in snapshots]),
        integers([snapshot.version for snapshot in snapshots]),
        texts([snapshot.schema_hash for snapshot in snapshots]),
        byte_strings([snapshot.state for snapshot in snapshots]),
    )


def _first_versions(events: Collection[NewEvent]) -> dict[str, int]:
    """Per stream its first version in the batch, but for those of series; the others must follow without a gap."""
    firsts: dict[str, int] = {}
    next_versions: dict[str, int] = {}
    for part in parts_of(events):
        if isinstance(part, NewSeries):
            if not next_versions.keys().isdisjoint(part.streams):
                raise StreamConflict("the batch begins a stream anew")
            next_versions.update(dict.fromkeys(part.streams, 2))
            continue
        stream, version = part.stream, part.version
        next_version = next_versions.get(stream)
        if next_version is None:
            firsts[stream] = version
        elif next_version != version:
            raise StreamConflict(f"{stream}: the batch has version {version} out of turn")
        next_versions[stream] = version + 1
    return firsts


# In the order of the function's parameters: where, events, grown streams, answers, counters, snapshots, new counters.
_TYPES = (
    *(INTEGER_OID, TEXT_OID, BIGINT_OID),
    *(TEXTS_OID, INTEGERS_OID, TEXTS_OID, BYTES_OID),
    *(TEXTS_OID, INTEGERS_OID),
    *(*[TEXTS_OID] * 9, INTEGERS_OID),
    *(TEXTS_OID, INTEGERS_OID),
    *(TEXTS_OID, INTEGERS_OID, TEXTS_OID, BYTES_OID),
    *(TEXTS_OID, INTEGERS_OID),
)
_PLACES = ", ".join(f"${number}" for number, _ in enumerate(_TYPES, 1))
_APPEND = Statement(b"append_batch", f"SELECT * FROM append_batch_counting({_PLACES})", _TYPES)
