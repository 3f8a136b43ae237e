"""What to do with an event that cannot be digested: try again, then park it and everything behind it in its stream."""

import time
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog

from contracts.envelope import Recorded
from infra.projections.ports import Coordination, Feed, Halt, Mine, ParkedEvent, every_stream
from infra.projections.runner import UNAVAILABLE
from projections.model import GapInStream

ATTEMPTS_MAX: Final = 3
PAUSE_SECONDS_FIRST: Final = 0.05  # Before the second attempt; four times as long before the third.
PAUSE_FACTOR: Final = 4
PAUSE_SECONDS_MAX: Final = 0.5  # For a whole batch, however many of its events fail: others wait meanwhile.
REPLAY_MAX: Final = 1_000  # Parked events of one stream that are tried in one go.
STREAMS_MAX: Final = 100  # Streams that are tried in one go; the next ones a moment later.
FRAMES_MAX: Final = 8

# What pure code raises about its input comes again at every attempt: trying again costs nothing, waiting would.
LASTING: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)

# Takes one event in, wholly or (when it raises) not at all.
Attempt = Callable[[Recorded], None]

_log = structlog.get_logger(__name__)


class Digestion:
    """Feeds events to an attempt one by one; other streams go on when one is stuck. ``label`` files what is parked."""

    def __init__(
        self, coordination: Coordination, label: str, *, pause: Callable[[float], object] = time.sleep
    ) -> None:
        self.label = label
        self._coordination = coordination
        self._pause = pause
        self._look()

    def given_up(self, stream: str) -> Collection[int]:
        """The versions of a stream that an operator took out for good."""
        return self._given_up.get(stream, ())

    def digest(self, events: Sequence[Recorded], attempt: Attempt) -> None:
        """Try each event; what fails is parked durably before this returns.

        Raises GapInStream, and as UNAVAILABLE when a store is away: that is no event's fault.
        """
        behind: list[Recorded] = []
        patience = _Patience(self._pause)
        for recorded in events:
            if recorded.stream in self._stuck:
                behind.append(recorded)
            else:
                self._try(recorded, attempt, patience)
        if behind:
            self._coordination.park_behind(self.label, behind)

    def replay(self, feed: Feed, attempt: Attempt, mine: Mine = every_stream) -> list[ParkedEvent]:
        """Try what an operator asked for, each stream in order up to its first failure; returns what succeeded.

        Only of streams that are ``mine``: whoever follows a stream replays it, so that nothing comes between.
        What was dropped succeeds untried. Nothing is forgotten yet: call :meth:`settle` once the effect is stored.
        """
        succeeded: list[ParkedEvent] = []
        streams = self._coordination.requeued_streams(self.label, STREAMS_MAX)
        if streams:
            self._look()
        patience = _Patience(self._pause)
        for stream in filter(mine, streams):
            try:
                for parked in self._coordination.parked(self.label, stream, REPLAY_MAX):
                    if not parked.is_dropped and not self._try(_fetch(feed, parked), attempt, patience):
                        break
                    succeeded.append(parked)
            except GapInStream as gap:
                # It was parked, and whoever did died before the rest of its batch was written. That batch comes again.
                _log.warning("parked_event_waits_for_its_batch", follower=self.label, stream=stream, reason=str(gap))
        return succeeded

    def settle(self, succeeded: Sequence[ParkedEvent]) -> None:
        """Forget parked events whose effect is stored; their streams flow again when nothing else is parked."""
        self._coordination.remove(self.label, succeeded)
        self._look()
        for stream in sorted({parked.stream for parked in succeeded}):
            _log.info(
                "parked_events_applied", follower=self.label, stream=stream, flows_again=stream not in self._stuck
            )

    def _look(self) -> None:
        self._stuck = set(self._coordination.parked_streams(self.label))
        self._given_up = self._coordination.dropped_versions(self.label)

    def _try(self, recorded: Recorded, attempt: Attempt, patience: "_Patience") -> bool:
        """Up to ATTEMPTS_MAX times; returns whether it was taken in. What was not is parked."""
        for attempts in range(1, ATTEMPTS_MAX + 1):
            try:
                attempt(recorded)
            except (GapInStream, *UNAVAILABLE):
                raise  # Not this event's fault: something before it is missing, or a store is away.
            except Exception as failure:  # noqa: BLE001 - whatever it is, this stream must wait and the others must not.
                if attempts == ATTEMPTS_MAX:
                    self._park(recorded, failure)
                elif not isinstance(failure, LASTING):
                    patience.wait(PAUSE_SECONDS_FIRST * PAUSE_FACTOR ** (attempts - 1))
            else:
                return True
        return False

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
        detail = "".join(traceback.format_exception(failure, limit=-FRAMES_MAX))
        self._coordination.park(self.label, recorded, reason=reason, attempts=ATTEMPTS_MAX, detail=detail)
        self._stuck.add(recorded.stream)


class _Patience:
    """The pauses of one batch, which together last no longer than PAUSE_SECONDS_MAX."""

    def __init__(self, pause: Callable[[float], object]) -> None:
        self._pause = pause
        self._left_seconds = PAUSE_SECONDS_MAX

    def wait(self, seconds: float) -> None:
        granted = min(seconds, self._left_seconds)
        if granted > 0:
            self._left_seconds -= granted
            self._pause(granted)


def _fetch(feed: Feed, parked: ParkedEvent) -> Recorded:
    events = feed.read(parked.offset - 1, 1)
    if not events or (events[0].stream, events[0].version) != (parked.stream, parked.version):
        raise Halt(f"{parked.stream} version {parked.version} was parked at offset {parked.offset}, but is not there")
    return events[0]
