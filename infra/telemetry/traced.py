"""Spans around the engine and around projections: both are wrapped from outside and know nothing of it."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from command.engine import Listener, Outcome
from contracts.envelope import Answer, CommandEnvelope, Recorded
from contracts.position import Position
from infra.kafka.lanes import Lane, Progress
from infra.projections.ports import Feed, Mine, Target, every_stream
from infra.telemetry.tracing import Tracing


class Queue(Protocol):
    """What takes commands."""

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands; each listener hears its outcome once."""
        ...


class TracedQueue:
    """A queue whose commands each get a span from being queued to being answered; their events become its children."""

    def __init__(self, queue: Queue, tracing: Tracing) -> None:
        self._queue = queue
        self._tracing = tracing

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands. Raises as the queue does."""
        if not self._tracing.enabled:
            self._queue.submit_to(envelopes)
            return
        with ExitStack() as unsent:
            traced = [self._traced(envelope, listener, unsent) for envelope, listener in envelopes]
            self._queue.submit_to(traced)
            unsent.pop_all()  # From here on each span ends with its own answer.

    def _traced(
        self, envelope: CommandEnvelope, listener: Listener, unsent: ExitStack
    ) -> tuple[CommandEnvelope, Listener]:
        name = f"append {envelope.command.type}"
        span = self._tracing.begin(name, envelope.traceparent, command_id=envelope.command_id, realm=envelope.realm.key)
        unsent.callback(span.end)

        def hear(outcome: Outcome) -> None:
            span.end(outcome.code if isinstance(outcome, Answer) else type(outcome).__name__)
            listener(outcome)

        return envelope._replace(traceparent=span.traceparent), hear


class TracedTarget:
    """A target whose batches show up in the traces of the commands that caused them."""

    def __init__(self, target: Target, tracing: Tracing) -> None:
        self._target = target
        self._tracing = tracing

    @property
    def name(self) -> str:
        """What operators call it."""
        return self._target.name

    @property
    def label(self) -> str:
        """Name and version."""
        return self._target.label

    @property
    def position(self) -> Position:
        """Where it stands."""
        return self._target.position

    def load(self, epoch: str, head: int) -> None:
        """Look where it stands."""
        self._target.load(epoch, head)

    def apply(self, events: Sequence[Recorded]) -> None:
        """Take in a batch."""
        with self._tracing.following(f"project {self._target.name}", events):
            self._target.apply(events)

    @property
    def progress(self) -> Progress:
        """Where it stands in its lanes."""
        return self._target.progress

    def load_lanes(self, epoch: str, mine: Collection[Lane]) -> None:
        """Look where it stands in its lanes."""
        self._target.load_lanes(epoch, mine)

    def apply_lanes(self, events: Sequence[Recorded], moves: Mapping[Lane, int]) -> None:
        """Take in a batch of some lanes."""
        with self._tracing.following(f"project {self._target.name}", events):
            self._target.apply_lanes(events, moves)

    def replay_parked(self, feed: Feed, mine: Mine = every_stream) -> int:
        """Try parked events again."""
        return self._target.replay_parked(feed, mine)
