"""An operator ends what a saga still wants and was refused for good: remembered with who and why, and sent no more."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Final

from command.ports import Batch, NewEvent
from contracts.envelope import Metadata
from contracts.events import EndedCommand, SagaResolved
from contracts.identity import Realm, stream_id
from infra.postgres import outbox
from infra.postgres.log import PostgresEventLog
from infra.postgres.outbox import RefusedCommand
from infra.sagas.hearing import Standing, fold_saga
from infra.sagas.tables import business_now, put_standings
from sagas.process import KIND, saga_key

REASON_MAX: Final = 1_000  # Characters.


@dataclass(frozen=True, slots=True)
class Resolved:
    """What was ended: the new entry of the saga's memory, and its business time."""

    entry: SagaResolved
    at: datetime


def resolve(log: PostgresEventLog, realm: Realm, process: str, key: str, *, reason: str, actor: str) -> Resolved | None:
    """End every refused command of one saga, in one transaction; None when there is none (any more).

    Only what was refused: a refusal is final and had no effect, while a command that has no answer yet may still take
    effect. Coupons and budgets are left alone, so no ledger moves. Raises StoreUnavailable, UnknownProcessVersion.
    """
    thread = saga_key(process, key)
    stream = stream_id(realm, KIND, thread)
    with log.appending() as transaction:
        refused = outbox.take_refused(transaction.cursor, realm, thread)
        if not refused:
            return None
        history = transaction.histories([stream]).get(stream)
        saga = fold_saga(stream, () if history is None else history.events)
        entry = saga.process.resolve(saga.memory, key, [_ended(each) for each in refused], reason)
        version = saga.version + 1
        at = business_now(transaction.cursor, realm) or transaction.store_now
        metadata = _metadata(f"{stream}\n{version}", refused[0], actor, at, transaction.store_now)
        transaction.append(Batch(events=[NewEvent(stream, version, entry, metadata)]))
        standing = Standing(realm, process, key, entry.process_version, entry.step, entry.type, version, at)
        put_standings(transaction.cursor, [standing])
    return Resolved(entry, at)


def _ended(refused: RefusedCommand) -> EndedCommand:
    command = refused.command
    return EndedCommand(
        command_id=command.command_id,
        type=command.command_type,
        payload=command.payload,
        code=refused.code,
        detail=refused.detail,
    )


def _metadata(name: str, refused: RefusedCommand, actor: str, at: datetime, recorded_at: datetime) -> Metadata:
    """``name``: the entry's place, of which its id follows."""
    event_id = blake2b(name.encode(), digest_size=16).hexdigest()
    return Metadata(
        event_id=event_id,
        occurred_at=at,
        recorded_at=recorded_at,
        actor=actor,
        command_id=f"resolved:{event_id}",
        correlation_id=refused.command.correlation_id,
        causation_id=refused.command.causation_id,
    )
