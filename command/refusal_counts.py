"""Refusals are counted for the funnel, one event per realm and batch, instead of one event each."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from command.decisions import BatchView, Decision
from command.unit_of_work import Kind
from contracts.envelope import CommandEnvelope
from contracts.events import Event, RefusalCount, RefusalsCounted
from contracts.identity import Realm


@dataclass(frozen=True, slots=True)
class NoState:
    """The state of streams that nobody decides on."""


def _unchanged(state: NoState, _event: Event) -> NoState:
    return state


REFUSALS = Kind("refusals", NoState, NoState(), _unchanged)


def count_refusals(view: BatchView, refused: Iterable[tuple[CommandEnvelope, str]]) -> None:
    """Record the counts of one batch: by realm, template, command type and code, in a stream per business day."""
    by_realm: dict[Realm, list[tuple[CommandEnvelope, str]]] = {}
    for envelope, code in refused:
        by_realm.setdefault(envelope.realm, []).append((envelope, code))
    for realm, entries in by_realm.items():
        counts = Counter((_template_of(envelope), envelope.command.type, code) for envelope, code in entries)
        event = RefusalsCounted(
            counts=tuple(
                RefusalCount(template_id=template, command=command, code=code, count=count)
                for (template, command, code), count in counts.items()
            )
        )
        decision = Decision(view, _batch_envelope(realm, entries[0][0]), lock_ttl_seconds=0, at=None)
        decision.record(REFUSALS, decision.now.date().isoformat(), (event,))
        decision.keep()


def _template_of(envelope: CommandEnvelope) -> str | None:
    template_id = getattr(envelope.command, "template_id", None)
    return template_id if isinstance(template_id, str) else None


def _batch_envelope(realm: Realm, first: CommandEnvelope) -> CommandEnvelope:
    return CommandEnvelope(
        realm=realm,
        command_id=f"batch:{first.command_id}",
        command=first.command,
        actor="engine",
        correlation_id=first.correlation_id,
        causation_id=first.command_id,
    )
