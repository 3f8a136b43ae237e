"""What to do with an event that cannot be digested: try again, then park it and everything behind it in its stream."""

from collections.abc import Callable, Sequence

import structlog

from contracts.envelope import Recorded
from infra.projections.ports import Coordination, Feed, Halt, ParkedEvent
from projections.model import GapInStream

ATTEMPTS_MAX = 3
REPLAY_MAX = 1_000  # Parked events of one stream that are tried in one go.

# Takes one event in, wholly or (when it raises) not at all.
Attempt = Callable[[Recorded], None]

_log = structlog.get_logger(__name__)


class Digestion:
    """Feeds events to an attempt one by one; other streams go on when one is stuck. ``label`` files what is parked."""

    def __init__(self, coordination: Coordination, label: str) -> None:
        self.label = label
        self._coordination = coordination
        self._stuck = set(coordination.parked_streams(label))

    def digest(self, events: Sequence[Recorded], attempt: Attempt) -> None:
        """Try each event; what fails is parked durably before this returns. Raises GapInStream."""
        behind: list[Recorded] = []
        for recorded in events:
            if recorded.stream in self._stuck:
                behind.append(recorded)
            elif (failure := _failure(recorded, attempt)) is not None:
                self._park(recorded, failure)
        if behind:
            self._coordination.park_behind(self.label, behind)

    def replay(self, feed: Feed, attempt: Attempt) -> list[ParkedEvent]:
        """Try what an operator asked for, each stream in order up to its first failure; returns what succeeded.

        Nothing is forgotten yet: call :meth:`settle` once the effect is stored.
        """
        succeeded: list[ParkedEvent] = []
        for stream in self._coordination.requeued_streams(self.label):
            for parked in self._coordination.parked(self.label, stream, REPLAY_MAX):
                recorded = _fetch(feed, parked)
                if (failure := _failure(recorded, attempt)) is not None:
                    self._park(recorded, failure)
                    break
                succeeded.append(parked)
        return succeeded

    def settle(self, succeeded: Sequence[ParkedEvent]) -> None:
        """Forget parked events whose effect is stored; their streams flow again when nothing else is parked."""
        self._coordination.remove(self.label, succeeded)
        self._stuck = set(self._coordination.parked_streams(self.label))
        for stream in sorted({parked.stream for parked in succeeded}):
            _log.info(
                "parked_events_applied", follower=self.label, stream=stream, flows_again=stream not in self._stuck
            )

    def _park(self, recorded: Recorded, failure: Exception) -> None:
        reason = f"{type(failure).__name__}: {failure}"
        _log.error(
            "event_parked",
            follower=self.label,
            stream=recorded.stream,
            version=recorded.version,
            offset=recorded.offset,
            type=recorded.event.type,
            reason=reason,
        )
        self._coordination.park(self.label, recorded, reason=reason, attempts=ATTEMPTS_MAX)
        self._stuck.add(recorded.stream)


def _failure(recorded: Recorded, attempt: Attempt) -> Exception | None:
    failure: Exception | None = None
    for _ in range(ATTEMPTS_MAX):
        try:
            attempt(recorded)
        except GapInStream:
            raise  # Not this event's fault: something before it is missing.
        except Exception as error:  # noqa: BLE001 - whatever it is, this stream must wait and the others must not.
            failure = error
        else:
            return None
    return failure


def _fetch(feed: Feed, parked: ParkedEvent) -> Recorded:
    events = feed.read(parked.offset - 1, 1)
    if not events or (events[0].stream, events[0].version) != (parked.stream, parked.version):
        raise Halt(f"{parked.stream} version {parked.version} was parked at offset {parked.offset}, but is not there")
    return events[0]
