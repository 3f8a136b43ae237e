"""The relay's loop: read the log, publish, wait for every acknowledgement, and only then move the checkpoint."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event as Signal
from typing import Literal, Protocol

from command.ports import StoreUnavailable
from contracts.position import Position
from contracts.registry import UnknownEventType
from infra.kafka.client import KafkaUnavailable
from infra.kafka.lanes import Lane, lane_of
from infra.kafka.messages import Message, encode, encode_watermark
from infra.postgres.mapper import UnreadableEvent
from infra.postgres.positions import PositionMoved
from infra.postgres.recorder import StoredRow
from infra.relay.checkpoint import RELAY, Checkpoint, Standing
from infra.relay.wording import Wording

logger = logging.getLogger(__name__)

State = Literal["starting", "standby", "publishing", "retrying", "halted", "stopped"]

# After these the relay waits a little and begins anew at its checkpoint. After any other error somebody has to help;
# it looks now and then whether somebody has.
PASSING = (StoreUnavailable, KafkaUnavailable, PositionMoved)


class At(StrEnum):
    """What has just been done when ``passing`` is called: the points at which tests let a relay die."""

    READ = "read"
    CONFIRMED = "confirmed"
    ACKNOWLEDGED = "acknowledged"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Every bound of a relay.

    ``lead_seconds``: after how much silence another one takes over. A watermark goes to every lane at most every
    ``watermark_seconds``, and without news every ``watermark_idle_seconds``, so that no retention leaves a lane blank.
    """

    batch_events_max: int = 2_000
    poll_seconds: float = 0.025
    standby_seconds: float = 0.25
    lead_seconds: float = 10.0
    beat_seconds: float = 1.0
    watermark_seconds: float = 0.1
    watermark_idle_seconds: float = 60.0
    backoff_seconds_first: float = 0.1
    backoff_seconds_max: float = 5.0
    halted_again_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """How a relay is, as it last looked; offsets are of the log. ``published`` counts events since it started."""

    state: State
    offset: int
    head: int
    published: int
    last_error: str | None

    @property
    def lag(self) -> int:
        """How far it is behind the head of the log."""
        return max(0, self.head - self.offset)


class Feed(Protocol):
    """The log in batches. Raises StoreUnavailable."""

    def read_stored(self, after: int, limit: int) -> Sequence[StoredRow]:
        """Up to ``limit`` events after an offset."""
        ...

    def wait(self, timeout_seconds: float) -> bool:
        """Return early when something was appended."""
        ...

    def head(self) -> int:
        """The offset of the last event."""
        ...

    def close(self) -> None:
        """Give back the connections."""
        ...


class Publisher(Protocol):
    """What takes messages to Kafka. Raises KafkaUnavailable, and others that trying again does not help against."""

    @property
    def partitions(self) -> int:
        """How many each topic has."""
        ...

    @property
    def lanes(self) -> Sequence[Lane]:
        """Every lane that there is."""
        ...

    def publish(self, parcels: Mapping[Lane, Sequence[Message]], beat: Callable[[], None]) -> None:
        """Send, in order within each lane, and return when all of it was acknowledged."""
        ...

    def close(self) -> None:
        """Let go of the brokers."""
        ...


class Relay:
    """Publishes one shard's log. ``run`` belongs to one thread; ``status`` may be read from any.

    At most one relay of a shard publishes; the others stand by and take over. What was published twice, by a relay that
    died before its checkpoint or was stopped and woke up late, is the same byte for byte and points back to the same
    record, so followers pass over it.
    """

    def __init__(
        self,
        feed: Feed,
        checkpoint: Checkpoint,
        publisher: Publisher,
        *,
        shard: int,
        limits: RelayLimits | None = None,
        on_batch: Callable[[str, int, float], None] = lambda _follower, _events, _seconds: None,
        traced: Callable[["Laid"], AbstractContextManager[object]] = nullcontext,
        passing: Callable[[At], None] = lambda _at: None,
    ) -> None:
        self._feed = feed
        self._checkpoint = checkpoint
        self._publisher = publisher
        self._shard = shard
        self._limits = limits or RelayLimits()
        self._on_batch = on_batch
        self._traced = traced
        self._passing = passing
        self._wording = Wording()
        self._standing: Standing | None = None  # None: somebody else publishes, or nobody.
        self._beat_at = self._marked_at = float("-inf")
        self._marked = -1  # Up to where watermarks were published.
        self._status = RelayStatus("starting", 0, 0, 0, None)

    def status(self) -> RelayStatus:
        """How it was when it last looked."""
        return self._status

    def run(self, stop: Signal) -> None:
        """Publish, or stand by, until told to stop. Never ends by itself: see the status for why it does not go on."""
        backoff = self._limits.backoff_seconds_first
        while not stop.is_set():
            try:
                published = self.step()
            except PASSING as error:
                self._interrupted("retrying", error)
                stop.wait(backoff)
                backoff = min(2 * backoff, self._limits.backoff_seconds_max)
            except Exception as error:  # noqa: BLE001 - told by the status and the log; it looks again later.
                self._interrupted("halted", error)
                stop.wait(self._limits.halted_again_seconds)
            else:
                if self._status.state == "publishing":
                    backoff = self._limits.backoff_seconds_first
                self._rest(published, stop)
        self._let_go()
        self._feed.close()
        self._note("stopped")

    def step(self) -> int:
        """One batch, if this relay leads and there is one; returns how many events were published. Raises at once."""
        standing = self._lead()
        if standing is None:
            return 0
        began = time.monotonic()
        rows = self._feed.read_stored(standing.offset, self._limits.batch_events_max)
        self._passing(At.READ)
        laid = lay_out(rows, standing, self._wording, shard=self._shard, partitions=self._publisher.partitions)
        marks = self._marks_are_due(laid.upto, began)
        if laid.events or marks:
            with self._traced(laid):
                self._publish(standing, laid, marks=marks)
            if laid.events:
                self._on_batch(RELAY, laid.events, time.monotonic() - began)
        elif began - self._beat_at >= self._limits.beat_seconds:
            self._beat_at = began
            self._checkpoint.beat()
            self._note("publishing", head=self._feed.head())
        return laid.events

    def _lead(self) -> Standing | None:
        """The standing, if it is this relay's to move on."""
        if self._standing is None:
            if not self._checkpoint.take():
                self._tell_standby()
                self._note("standby", head=self._feed.head())
                return None
            self._standing = self._checkpoint.load()
            self._marked, self._marked_at = -1, float("-inf")
            logger.info("relay_leading", extra={"shard": self._shard, "offset": self._standing.offset})
        return self._standing

    def _tell_standby(self) -> None:
        """Once each time that it comes to stand by: whoever started it sees that it waits, and for whom."""
        if self._status.state == "standby":
            return
        holder = self._checkpoint.holder()
        behind = {} if holder is None else {"backend_pid": holder.backend_pid, "client": holder.client}
        since = {} if holder is None else {"since": holder.since.isoformat(timespec="seconds")}
        told = f"another relay publishes shard {self._shard}; this one takes over when that ends"
        logger.info("relay_standing_by", extra={"shard": self._shard, "reason": told, **behind, **since})

    def _publish(self, standing: Standing, laid: "Laid", *, marks: bool) -> None:
        upto = laid.upto
        self._checkpoint.confirm(standing, upto, laid.events)
        self._passing(At.CONFIRMED)
        if marks:
            self._add_marks(laid.parcels, standing.epoch, upto, {**standing.lanes, **laid.ends})
        self._publisher.publish(laid.parcels, self._checkpoint.beat)
        self._passing(At.ACKNOWLEDGED)
        if laid.events:
            standing = self._standing = self._checkpoint.move(standing, upto, laid.ends)
        if marks:
            self._marked, self._marked_at = upto, time.monotonic()
        self._passing(At.MOVED)
        self._beat_at = time.monotonic()
        self._note("publishing", offset=upto, head=max(upto, self._status.head), published=laid.events)

    def _add_marks(self, parcels: dict[Lane, list[Message]], epoch: str, upto: int, last: Mapping[Lane, int]) -> None:
        """After its events each lane hears up to where it is complete now, also one that got none."""
        position = Position(self._shard, epoch, upto)
        for lane in self._publisher.lanes:
            mark = encode_watermark(position, previous=last.get(lane, 0))
            parcels.setdefault(lane, []).append(mark)

    def _marks_are_due(self, upto: int, now: float) -> bool:
        limits = self._limits
        pause = limits.watermark_seconds if upto > self._marked else limits.watermark_idle_seconds
        return now - self._marked_at >= pause

    def _rest(self, published: int, stop: Signal) -> None:
        if self._standing is None:
            stop.wait(self._limits.standby_seconds)
        elif published == 0:
            self._feed.wait(self._limits.poll_seconds)

    def _interrupted(self, state: State, error: Exception) -> None:
        """Let another relay try: what is in this one's way need not be in the other's."""
        self._let_go()
        told = f"{type(error).__name__}: {error}"
        if (self._status.state, self._status.last_error) != (state, told):
            about = {"shard": self._shard, "reason": told}
            logger.log(logging.ERROR if state == "halted" else logging.WARNING, "relay_%s", state, extra=about)
        self._note(state, error=told)

    def _let_go(self) -> None:
        self._standing = None
        self._publisher.close()
        self._checkpoint.release()

    def _note(
        self,
        state: State,
        *,
        offset: int | None = None,
        head: int | None = None,
        published: int = 0,
        error: str | None = None,
    ) -> None:
        former = self._status
        known = self._standing.offset if self._standing is not None else former.offset
        self._status = RelayStatus(
            state=state,
            offset=known if offset is None else offset,
            head=former.head if head is None else head,
            published=former.published + published,
            last_error=error,
        )


@dataclass(slots=True)
class Laid:
    """A batch as messages by lane, up to an offset of the log, and each lane's new last offset."""

    upto: int
    events: int = 0
    parcels: dict[Lane, list[Message]] = field(default_factory=dict)
    ends: dict[Lane, int] = field(default_factory=dict)
    traces: list[str] = field(default_factory=list)  # The traceparents of events that have one.


def lay_out(rows: Sequence[StoredRow], standing: Standing, wording: Wording, *, shard: int, partitions: int) -> Laid:
    """Events as messages by lane, each pointing back to the one before it there.

    Depends on the log and the standing only: whoever publishes them again, after whatever happened, says the same. It
    ends before an event that cannot be read; when that is the first, raises UnknownEventType or UnreadableEvent.
    """
    laid = Laid(standing.offset)
    for row in rows:
        try:
            event = wording.told(row)
        except (UnknownEventType, UnreadableEvent):
            if not laid.events:
                raise
            break
        lane = lane_of(row.stream.split("/", 3)[2], row.stream, partitions)
        previous = laid.ends.get(lane) or standing.lanes.get(lane, 0)
        message = encode(event, shard=shard, epoch=standing.epoch, previous=previous)
        laid.parcels.setdefault(lane, []).append(message)
        laid.ends[lane] = laid.upto = row.offset
        laid.events += 1
        if event.traceparent is not None:
            laid.traces.append(event.traceparent)
    return laid
