"""A read model in Redis as a target of the log: fold a batch in memory, write each bucket once, the position last."""

from collections.abc import Callable, Collection, Mapping, Sequence
from logging import INFO, WARNING
from typing import NoReturn

import structlog

from contracts.envelope import Recorded
from contracts.position import Position
from contracts.read_models import NEVER_READY
from infra.kafka.lanes import Lane, Progress
from infra.projections.digestion import Attempt, Digestion
from infra.projections.ports import Busy, Coordination, Feed, Mine, OtherEpoch, StoreNeeded, every_stream
from infra.redis.models import BucketDamaged, CheckpointLost, Control, ModelStore, Seen
from projections.model import FIRST_VERSION, Entry, GapInStream, Place, apply_once

TRIES_MAX = 5  # Each time somebody else wrote first. Then the batch is tried again as a whole, later.

_log = structlog.get_logger(__name__)


class RedisTarget:
    """One version of one read model. Without a version it is whichever one readers use (and begins one when none is).

    One thread at a time, under the projection's lock. ``lanes``: those in which it is followed over Kafka, by several
    processes at once.
    """

    def __init__(
        self,
        store: ModelStore,
        coordination: Coordination,
        *,
        shard: int,
        version: int | None = None,
        lanes: Collection[Lane] = (),
    ) -> None:
        self.name = store.model.name
        self.position = Position(shard, "", 0)
        self.version = version or 0
        self.progress = Progress(lanes)
        self._at: dict[str, Position] = {}  # By lane: where the version was when last seen,
        self._left: dict[str, Position] = {}  # and where it was when last seen by us as ours.
        self._follows_active = version is None
        self._store = store
        self._coordination = coordination
        self._digestion: Digestion | None = None

    @property
    def label(self) -> str:
        """Name and version, as parked events are filed under."""
        return f"{self.name}:v{self.version}"

    def load(self, epoch: str, head: int) -> None:
        """Look where the version stands. Raises OtherEpoch, CheckpointLost (a shadow that was flushed).

        A model that is not there is begun from the start of the log; readers are told to wait until it is whole.
        """
        control = self._store.control()
        version = control.active if self._follows_active else self.version
        position = None if version is None else control.checkpoints.get(version)
        if version is None or position is None:
            if not self._follows_active:
                raise CheckpointLost(f"{self.label} has no checkpoint any more: it was flushed or dropped")
            version, position = self._begin(max(control.newest, self.version) + 1, epoch, head)
        if position.epoch != epoch:
            self._refuse(position, epoch, control)
        # Whoever moved it may have parked something: what follows in that stream must not overtake it.
        if version != self.version or self._digestion is None or position != self.position:
            self.version = version
            self._refresh()
        self.position, self._at = position, dict(control.lanes.get(version, {}))

    def load_lanes(self, epoch: str, mine: Collection[Lane]) -> None:
        """Look where the active version stands in its lanes; those that it does not have yet begin at its checkpoint.

        Raises StoreNeeded for a version that is not whole, OtherEpoch, CheckpointLost.
        """
        control = self._store.control()
        version = control.active
        position = None if version is None else control.checkpoints.get(version)
        if version is None or position is None:
            raise StoreNeeded(self.name)
        if position.epoch != epoch:
            self._refuse(position, epoch, control)
        if position.offset < control.ready_at:
            raise StoreNeeded(self.name)
        at = dict(control.lanes.get(version, {}))
        if missing := [lane.key for lane in self.progress.lanes if lane.key not in at]:
            self._store.begin_lanes(version, position, missing)
            at |= dict.fromkeys(missing, position)
        if version != self.version or self._digestion is None or self._have_moved(at, mine):
            self.version = version
            self._refresh()
        self._left = {lane.key: at[lane.key] for lane in self.progress.lanes if lane in mine}
        self._stand(position, at)

    def _have_moved(self, at: Mapping[str, Position], mine: Collection[Lane]) -> bool:
        """Whether lanes are new to this process, or somebody else had them: what is parked may be news, too."""
        return any(at[lane.key] != self._left.get(lane.key) for lane in self.progress.lanes if lane in mine)

    def begin(self, epoch: str) -> None:
        """Make this version, empty, for nobody to read yet."""
        self.position = Position(self.position.shard, epoch, 0)
        self._store.begin(self.version, self.position)
        self._at = {}
        self._refresh()

    def apply(self, events: Sequence[Recorded]) -> None:
        """Take in a batch. Raises GapInStream, BucketDamaged, CheckpointLost; none of the batch counts then."""
        news = [each for each in events if each.offset > self.position.offset]
        if not news:
            return
        self._take(news, lambda control: control.checkpoints.get(self.version) == self.position)
        self._advance(news[-1].offset)

    def apply_lanes(self, events: Sequence[Recorded], moves: Mapping[Lane, int]) -> None:
        """Take in what is new in some lanes, then move them on. Raises as :meth:`apply` does."""
        self._take(events, lambda control: self._is_at(control, moves))
        ends = {lane.key: self.position._replace(offset=offset) for lane, offset in moves.items()}
        steps = {key: (self._at[key], end) for key, end in ends.items()}
        position = self._store.move_lanes(self.version, steps, [lane.key for lane in self.progress.lanes])
        self._left |= ends
        self._stand(position, self._at | ends)

    def replay_parked(self, feed: Feed, mine: Mine = every_stream) -> int:
        """Try parked events again that an operator asked for; returns how many were applied."""
        assert self._digestion is not None
        seen = Seen()
        changed: dict[Place, Entry] = {}
        succeeded = self._digestion.replay(feed, self._attempt(seen, changed, load=True), mine)
        if not succeeded:
            return 0
        if not self._store.write(self.version, self.position.offset, changed, seen):
            return 0  # Another process wrote one of the buckets: next time.
        self._digestion.settle(succeeded)
        return len(succeeded)

    def _take(self, events: Sequence[Recorded], is_unmoved: Callable[[Control], bool]) -> None:
        mine = [each for each in events if each.name.kind in self._store.model.kinds]
        try:
            if mine:
                self._fold(mine)
        except (GapInStream, BucketDamaged) as error:
            if is_unmoved(self._store.control()):
                raise
            raise CheckpointLost(f"{self.label} was flushed or moved") from error  # No wonder that parts are gone.

    def _is_at(self, control: Control, lanes: Collection[Lane]) -> bool:
        at = control.lanes.get(self.version, {})
        return all(at.get(lane.key) == self._at[lane.key] for lane in lanes)

    def _refuse(self, position: Position, epoch: str, control: Control) -> NoReturn:
        if control.ready_at != NEVER_READY:
            self._store.withdraw()
        raise OtherEpoch(self.name, position.epoch, epoch)

    def _stand(self, position: Position, at: dict[str, Position]) -> None:
        own = {lane: at[lane.key].offset for lane in self.progress.lanes}
        self.position, self._at = position, at
        self.progress = Progress(self.progress.lanes, position.offset, own)

    def _refresh(self) -> None:
        """What is parked may be known to somebody else only: look again."""
        self._digestion = Digestion(self._coordination, self.label)

    def _begin(self, version: int, epoch: str, head: int) -> tuple[int, Position]:
        start = Position(self.position.shard, epoch, 0)
        if self.version:
            _log.error("read_model_lost", model=self.name, version=self.version, offset=self.position.offset)
            self._coordination.forget(self.label)
        level = WARNING if head else INFO  # Of an empty log nobody misses anything; else reads are refused for a while.
        _log.log(level, "read_model_begun", model=self.name, version=version, served_from_offset=head)
        self._coordination.forget(f"{self.name}:v{version}")
        self._store.begin(version, start, ready_at=head)
        return version, start

    def _fold(self, events: Sequence[Recorded]) -> None:
        """Fold and write; where another process wrote first, look again and fold what it has not. Raises Busy."""
        assert self._digestion is not None
        places, begun = self._places(events)
        for _ in range(TRIES_MAX):
            seen = self._store.load(self.version, places, begun)
            changed: dict[Place, Entry] = {}
            self._digestion.digest(events, self._attempt(seen, changed))
            if self._store.write(self.version, events[-1].offset, changed, seen):
                return
            begun = set()
        raise Busy(f"other processes keep writing the same buckets of {self.label}")

    def _places(self, events: Sequence[Recorded]) -> tuple[Collection[Place], set[Place]]:
        """Where these events belong, and which of those documents they begin.

        A document of a single stream begins with the stream's first version. When that comes again (a batch after a
        crash), the store finds the document there, and it is folded on top of that.
        """
        single = len(self._store.model.kinds) == 1
        places: dict[Place, bool] = {}
        for recorded in events:
            try:
                for place in self._store.model.route(recorded):
                    places.setdefault(place, single and recorded.version == FIRST_VERSION)
            except Exception:  # noqa: BLE001 - the attempt meets it again, and deals with it.
                continue
        return places.keys(), {place for place, begins in places.items() if begins}

    def _attempt(self, seen: Seen, changed: dict[Place, Entry], *, load: bool = False) -> Attempt:
        entries, digestion = seen.entries, self._digestion
        assert digestion is not None

        def attempt(recorded: Recorded) -> None:
            places = self._store.model.route(recorded)
            if load:
                seen.add(self._store.load(self.version, [place for place in places if place not in entries]))
            given_up = digestion.given_up(recorded.stream)
            news = {place: apply_once(self._store.model, entries.get(place), recorded, given_up) for place in places}
            for place, entry in news.items():
                if entry is not None:
                    entries[place] = changed[place] = entry

        return attempt

    def _advance(self, offset: int) -> None:
        position = self.position._replace(offset=offset)
        self._store.advance(self.version, self.position, position, self._at.keys())
        self.position, self._at = position, {}
