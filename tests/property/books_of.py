"""Verification's own books over a log in memory: every history that a property test makes must balance."""

import json

from command.ports import EventLog
from contracts.envelope import Recorded
from query.verify.books import Books
from query.verify.raw import RawEvent, Violation

EVENTS_MAX = 1_000_000


def raw(recorded: Recorded) -> RawEvent:
    """The row that verification would read for this event."""
    metadata, name = recorded.metadata, recorded.name
    return RawEvent(
        offset=recorded.offset,
        stream=recorded.stream,
        version=recorded.version,
        type=recorded.event.type,
        event_id=metadata.event_id,
        tenant_id=name.realm.tenant_id,
        app_id=name.realm.app_id,
        occurred_at=metadata.occurred_at,
        recorded_at=metadata.recorded_at,
        command_id=metadata.command_id,
        data=json.loads(recorded.event.model_dump_json()),
    )


def violations_of(log: EventLog) -> list[Violation]:
    """What `tessera verify` would say of the log alone."""
    books = Books()
    with log.reading() as view:
        books.fold(raw(recorded) for recorded in view.events_after(0, EVENTS_MAX))
    return books.finish()
