"""The batch follower: reads the log, hands each batch to its targets, counts, waits, and stops rather than skips."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event as Signal

import structlog

from command.ports import StoreUnavailable
from contracts.envelope import Recorded
from contracts.position import Position
from infra.clickhouse.connection import ClickHouseUnavailable, FactsDamaged
from infra.kafka.errors import KafkaUnavailable
from infra.projections.ports import (
    Busy,
    Coordination,
    EventsSkipped,
    Feed,
    FollowerStatus,
    Halt,
    LogWentBack,
    Mark,
    State,
    Target,
    Witness,
    mark_of,
)
from infra.redis.connection import RedisUnavailable
from infra.redis.models import BucketDamaged, CheckpointLost
from projections.model import GapInStream

_log = structlog.get_logger(__name__)

# Nothing is known to be lost or wrong: the same again, later.
UNAVAILABLE = (StoreUnavailable, RedisUnavailable, ClickHouseUnavailable, KafkaUnavailable, Busy)
# This target is not what it should be; the others may go on.
DAMAGED = (Halt, GapInStream, BucketDamaged, FactsDamaged)


@dataclass(frozen=True, slots=True)
class FollowerLimits:
    """Every bound of a follower. ``linger`` lets batches fill up for a target that likes them large."""

    batch_events_max: int = 2_000
    poll_seconds: float = 0.025
    linger_seconds: float = 0.0
    tend_seconds: float = 0.5
    backoff_first_seconds: float = 0.05
    backoff_max_seconds: float = 1.0
    unavailable_seconds_max: float = 24 * 3_600.0


class Follower:
    """Keeps some targets up with the log. ``run`` belongs to one thread; ``status`` may be read from any.

    ::

        Halt                     going on would lose, skip or falsify something
        ├── OtherEpoch           the store was restored
        ├── LogWentBack          the store was restored, and nobody told
        └── EventsSkipped        the log has events that were not handed over
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        targets: Sequence[Target],
        coordination: Coordination,
        limits: FollowerLimits | None = None,
        on_batch: Callable[[int, float], None] = lambda _events, _seconds: None,
        *,
        witness: Witness | None = None,
    ) -> None:
        self.name = name
        self._feed = feed
        self._targets = list(targets)
        self._coordination = coordination
        self._limits = limits or FollowerLimits()
        self._on_batch = on_batch
        self._witness = witness
        self._halted: dict[str, tuple[str, str]] = {}  # Target: label and reason at the time.
        self._state: State = "starting"
        self._last_error: str | None = None
        self._handled = 0
        self._head = 0
        self._epoch = ""
        self._noted = 0  # Up to where the witness has it, in this epoch.
        self._tended_at = float("-inf")
        self._status = self._snapshot(parked=0)

    def status(self) -> FollowerStatus:
        """How it was when it last looked."""
        return self._status

    def run(self, stop: Signal) -> None:
        """Follow until told to stop. Raises what made it halt: Halt, UnknownEventType, UnreadableEvent …

        Run again, it tries everything again: somebody may have mended what was wrong.
        """
        self._halted.clear()
        self._tended_at = float("-inf")
        unavailable_since: float | None = None
        backoff = self._limits.backoff_first_seconds
        try:
            while not stop.is_set():
                try:
                    events = self.step()
                except UNAVAILABLE as error:
                    now = time.monotonic()
                    unavailable_since = unavailable_since or now
                    self._retrying(error)
                    if now - unavailable_since > self._limits.unavailable_seconds_max:
                        raise Halt(f"{self.name}: a store was out of reach for too long: {error}") from error
                    stop.wait(backoff)
                    backoff = min(2 * backoff, self._limits.backoff_max_seconds)
                    continue
                unavailable_since, backoff = None, self._limits.backoff_first_seconds
                self._rest(events, stop)
        except BaseException as error:
            self._finish("halted", f"{type(error).__name__}: {error}")
            raise
        self._finish("stopped", None)

    def step(self) -> int:
        """One batch, if there is one; returns how many events were read. Raises as :meth:`run` does, at once."""
        due = self._is_due()
        if not due and self._feed.head() <= self._offset:
            return 0
        began = time.monotonic()
        with self._coordination.hold(self.name):
            self._load()
            if due:
                self._replay_parked()
            events = self._read()
            if events:
                self._hand_over(events)
        self._went_well(len(events), began, tended=due)
        return len(events)

    def _is_due(self) -> bool:
        """Whether it is time to look after parked events, and to tell how things are."""
        return time.monotonic() - self._tended_at >= self._limits.tend_seconds

    def _went_well(self, events: int, began: float, *, tended: bool) -> None:
        if self._state != "following":
            _log.info("follower_following", follower=self.name, offset=self._offset)
        self._state, self._last_error = "following", None
        if events:
            self._on_batch(events, time.monotonic() - began)
        if tended:
            self._tended_at = time.monotonic()
            self._report()

    @property
    def _running(self) -> list[Target]:
        return [target for target in self._targets if target.name not in self._halted]

    @property
    def _offset(self) -> int:
        """What every running target has (of all targets, when none runs)."""
        return min(target.position.offset for target in self._running or self._targets)

    def _load(self) -> None:
        self._epoch = self._feed.epoch()
        self._head = self._feed.head()
        for target in self._targets:
            try:
                self._look(target)
            except CheckpointLost as error:
                raise Halt(str(error)) from error
            except DAMAGED as error:
                self._halt(target, error)
                continue
            halted = self._halted.get(target.name)
            if halted is not None and halted[0] != target.label:
                del self._halted[target.name]  # Rebuilt: what halted it is another version's trouble.
                _log.info("target_resumed", follower=self.name, target=target.label)
        self._require_same_log()
        self._require_running()

    def _look(self, target: Target) -> None:
        target.load(self._epoch, self._head)

    def _require_same_log(self) -> None:
        """After a restore that nobody told, offsets are given out again: going on would pass over what has them now.

        Raises LogWentBack when the log has another event where this follower stands; halts what is behind its end.
        """
        for target in self._running:
            offset = target.position.offset
            # Looked at again: another process may have moved the target since we looked.
            if offset > self._head and offset > (head := self._feed.head()):
                self._halt(target, LogWentBack(target.name, offset, head))
        mark = None if self._witness is None else self._witness.last()
        if mark is None or mark.position.epoch != self._epoch:
            self._noted = 0
            return  # What belongs to another epoch is told by the targets.
        self._noted = mark.position.offset
        if self._coordination.mark_at(mark.position.offset) != mark.event:
            raise LogWentBack(self.name, mark.position.offset, self._feed.head())

    def _read(self) -> Sequence[Recorded]:
        after = self._offset
        events = self._feed.read(after, self._limits.batch_events_max)
        if events:
            upto = events[-1].offset
            counted = self._coordination.count(after, upto)
            if counted != len(events):
                raise EventsSkipped(self.name, after, upto, len(events), counted)
        return events

    def _hand_over(self, events: Sequence[Recorded]) -> None:
        self._note(self._running[0].position.shard, events[-1])
        for target in self._running:
            try:
                target.apply(events)
            except CheckpointLost as error:
                # The next load begins it anew, or finds where somebody else took it.
                _log.error("checkpoint_lost", follower=self.name, target=target.label, reason=str(error))
            except DAMAGED as error:
                self._halt(target, error)
        self._handled += len(events)
        self._require_running()

    def _note(self, shard: int, last: Recorded) -> None:
        """Before any of it takes effect. A batch that ends earlier than one that was cut short says nothing new."""
        if self._witness is not None and last.offset > self._noted:
            self._witness.note(Mark(Position(shard, self._epoch, last.offset), mark_of(last)))
            self._noted = last.offset

    def _replay_parked(self) -> None:
        for target in self._running:
            target.replay_parked(self._feed)

    def _halt(self, target: Target, error: Exception) -> None:
        if target.name not in self._halted:
            _log.error("target_halted", follower=self.name, target=target.label, reason=str(error))
        self._halted[target.name] = (target.label, str(error))

    def _require_running(self) -> None:
        if not self._running:
            raise Halt(f"every target of {self.name} is halted: {self._reasons()}")

    def _reasons(self) -> str:
        return "; ".join(reason for _, reason in self._halted.values())

    def _rest(self, events: int, stop: Signal) -> None:
        if events == 0:
            self._feed.wait(self._limits.poll_seconds)
        elif events < self._limits.batch_events_max and self._limits.linger_seconds:
            stop.wait(self._limits.linger_seconds)

    def _retrying(self, error: Exception) -> None:
        if self._state != "retrying":
            _log.warning("follower_retrying", follower=self.name, reason=str(error))
        self._state, self._last_error = "retrying", f"{type(error).__name__}: {error}"
        self._status = self._snapshot(parked=self._status.parked)

    def _finish(self, state: State, error: str | None) -> None:
        self._state, self._last_error = state, error
        _log.log(
            logging.ERROR if state == "halted" else logging.INFO, f"follower_{state}", follower=self.name, reason=error
        )
        try:
            self._report()
        except UNAVAILABLE:  # It stops either way; the status in this process is right.
            self._status = self._snapshot(parked=self._status.parked)

    def _report(self) -> None:
        parked = self._coordination.parked_count([target.label for target in self._targets])
        self._status = self._snapshot(parked)
        self._coordination.report(self._status, self._epoch)

    def _snapshot(self, parked: int) -> FollowerStatus:
        return FollowerStatus(
            name=self.name,
            state=self._state,
            offset=self._offset,
            head=self._head,
            handled=self._handled,
            parked=parked,
            last_error=self._last_error or self._reasons() or None,
            updated_at=datetime.now(UTC),
            targets={target.name: target.position.offset for target in self._targets},
            halted={name: reason for name, (_, reason) in self._halted.items()},
        )
