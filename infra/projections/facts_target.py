"""The facts in ClickHouse as a target of the log: rows of a batch, one insert per table, the position last."""

from collections.abc import Collection, Mapping, Sequence

from contracts.envelope import Recorded
from contracts.position import Position
from infra.clickhouse.facts import POSITION_NAME, FactsCheckpoint, FactsStore
from infra.kafka.lanes import Lane, Progress
from infra.projections.digestion import Attempt, Digestion
from infra.projections.ports import Coordination, Feed, Mark, Mine, OtherEpoch, StoreNeeded, every_stream
from projections.facts import Row, rows_of

FIRST_VERSION = 1


class FactsTarget:
    """All fact tables of one database. One thread at a time, under the projection's lock. Its own witness, too.

    Rows are named by (event, row): inserting a batch again, or one that overlaps, changes nothing. ``lanes``: those in
    which the facts are followed over Kafka, by several processes at once.
    """

    name = POSITION_NAME

    def __init__(
        self,
        store: FactsStore,
        coordination: Coordination,
        *,
        shard: int,
        version: int = FIRST_VERSION,
        lanes: Collection[Lane] = (),
    ) -> None:
        self.position = Position(shard, "", 0)
        self.version = version
        self.progress = Progress(lanes)
        self._left: dict[Lane, int] = {}  # Where each lane was when last seen by us as ours.
        self._noted: Mark | None = None
        self._store = store
        self._coordination = coordination
        self._digestion: Digestion | None = None

    @property
    def label(self) -> str:
        """Name and version, as parked events are filed under."""
        return f"{self.name}:v{self.version}"

    def load(self, epoch: str, head: int) -> None:
        """Look where the facts stand. Raises OtherEpoch, FactsDamaged."""
        found = self._store.checkpoint()
        if found is None:
            found = FactsCheckpoint(self.version, Position(self.position.shard, epoch, 0))
            self._store.save(found)  # An empty log has facts, too: none.
        if found.position.epoch != epoch:
            raise OtherEpoch(self.name, found.position.epoch, epoch)
        self._stand(found)

    def load_lanes(self, epoch: str, mine: Collection[Lane]) -> None:
        """Look where the facts stand in each lane. Raises StoreNeeded, OtherEpoch, FactsDamaged."""
        found = self._store.checkpoint()
        if found is None:
            raise StoreNeeded(self.name)
        if found.position.epoch != epoch:
            raise OtherEpoch(self.name, found.position.epoch, epoch)
        lanes = self._store.lanes(found.version, epoch)
        own = {lane: lanes[lane.key] for lane in self.progress.lanes if lane.key in lanes}
        progress = Progress(self.progress.lanes, found.position.offset, own)
        self._stand(found)
        here = {lane: progress.of(lane) for lane in progress.lanes if lane in mine}
        if any(self._left.get(lane) != offset for lane, offset in here.items()):
            self._refresh()  # Somebody else had these lanes: what is parked may be news, too.
        self.progress, self._left = progress, here

    def last(self) -> Mark | None:
        """How far rows may be there already: behind its position, when somebody died in the middle of a batch."""
        return self._noted

    def note(self, mark: Mark) -> None:
        """Durable before any row is: a batch that is cut short leaves rows that a restored log may not know."""
        self._store.note(self.version, *mark)
        self._noted = mark

    def apply(self, events: Sequence[Recorded]) -> None:
        """Take in a batch. Raises FactsDamaged."""
        assert self._digestion is not None
        news = [each for each in events if each.offset > self.position.offset]
        if not news:
            return
        rows: dict[str, list[Row]] = {}
        self._digestion.digest(news, _attempt(rows))
        self._insert(rows)
        self._save(self.position._replace(offset=news[-1].offset))

    def apply_lanes(self, events: Sequence[Recorded], moves: Mapping[Lane, int]) -> None:
        """Take in what is new in some lanes, then move them on. Raises FactsDamaged."""
        assert self._digestion is not None
        rows: dict[str, list[Row]] = {}
        self._digestion.digest(events, _attempt(rows))
        self._insert(rows)
        epoch = self.position.epoch
        self._store.save_lanes(self.version, epoch, {lane.key: offset for lane, offset in moves.items()})
        # Read after it was written: of processes that finish together, the last one sees what the others did.
        lanes = self._store.lanes(self.version, epoch)
        own = {lane: lanes[lane.key] for lane in self.progress.lanes if lane.key in lanes}
        self.progress = Progress(self.progress.lanes, self.progress.base, own)
        self._left |= moves
        overall = self.progress.overall()
        if overall > self.position.offset:
            self._save(self.position._replace(offset=overall))

    def replay_parked(self, feed: Feed, mine: Mine = every_stream) -> int:
        """Try parked events again that an operator asked for; returns how many were applied."""
        assert self._digestion is not None
        rows: dict[str, list[Row]] = {}
        succeeded = self._digestion.replay(feed, _attempt(rows), mine)
        if succeeded:
            self._insert(rows)
            self._digestion.settle(succeeded)
        return len(succeeded)

    def _stand(self, found: FactsCheckpoint) -> None:
        if found.version != self.version or self._digestion is None:
            self.version = found.version
            self._refresh()
        self.position = found.position
        self._noted = None if found.noted is None else Mark(found.noted, found.mark)

    def _refresh(self) -> None:
        self._digestion = Digestion(self._coordination, self.label)

    def _insert(self, rows: dict[str, list[Row]]) -> None:
        for table, group in rows.items():
            self._store.insert(table, group)

    def _save(self, position: Position) -> None:
        self._store.save(FactsCheckpoint(self.version, position))
        self.position = position


def _attempt(rows: dict[str, list[Row]]) -> Attempt:
    def attempt(recorded: Recorded) -> None:
        if (found := rows_of(recorded)) is not None:
            table, news = found
            rows.setdefault(table.name, []).extend(news)

    return attempt
