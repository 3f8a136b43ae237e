"""Everything about projections for processes and operators: followers to run, and list, rebuild and drop by name."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event as Signal
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from contracts.position import Position
from contracts.topics import EVENT_TOPICS, Topic, topic_of
from infra.clickhouse.connection import ClickHouseUnavailable, FactsDamaged
from infra.clickhouse.facts import POSITION_NAME, FactsStore
from infra.kafka.errors import KafkaUnavailable
from infra.kafka.lanes import Stranger, ignore_strangers, lanes_of
from infra.postgres.feed import StoreFeed
from infra.processes import join_hearing_signals
from infra.projections.coordination import PostgresCoordination
from infra.projections.facts_target import FactsTarget
from infra.projections.lane_follower import LaneFollower, LaneSource
from infra.projections.ports import FollowerStatus, Halt, LogWentBack, Mark, OtherEpoch, Target, Witness
from infra.projections.rebuild import Progress, Rebuildable, RebuildableFacts, RebuildableModel, RebuildReport, rebuild
from infra.projections.redis_target import RedisTarget
from infra.projections.runner import Follower, FollowerLimits
from infra.projections.witness import RedisWitness
from infra.redis.connection import RedisUnavailable, connect, require_no_eviction
from infra.redis.models import ModelStore
from infra.settings import Settings
from projections.catalog import READ_MODELS
from projections.model import ReadModel

if TYPE_CHECKING:
    from infra.kafka.consumer import LaneConsumer

_log = structlog.get_logger(__name__)

REDIS_FOLLOWER: Final = "redis"
FACTS_FOLLOWER: Final = "facts"
FACTS_LINGER_SECONDS: Final = 0.2  # ClickHouse likes few large inserts; a fact may be half a second late.
HALTED_AGAIN_SECONDS: Final = 5.0
STORE_LOOKS_MAX: Final = 60
STORE_LOOK_SECONDS: Final = 1.0

OnBatch = Callable[[str, int, float], None]


@dataclass(frozen=True, slots=True)
class ProjectionState:
    """One projection as it stands: the version that readers use, all versions, its offset and how far it is behind."""

    name: str
    follower: str
    active: int | None
    versions: tuple[int, ...]
    offset: int | None
    lag: int | None
    parked: int
    ready: bool
    epoch: str | None
    problem: str | None = None  # Why nothing else is known of it.
    halted: str | None = None  # Why it cannot go on from where it is.
    mark: Mark | None = None  # The last event that was handed to its follower, where that is known.

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "name": self.name,
            "follower": self.follower,
            "active": self.active,
            "versions": list(self.versions),
            "offset": self.offset,
            "lag": self.lag,
            "parked": self.parked,
            "ready": self.ready,
            "epoch": self.epoch,
            "problem": self.problem,
            "halted": self.halted,
        }


class UnknownProjection(Exception):
    """There is no projection of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no projection {name!r}; there are: {', '.join(NAMES)}")


NAMES: Final = (*READ_MODELS, POSITION_NAME)


class ProjectionService:
    """The projections of one shard: models under its names in Redis, and the facts at ``clickhouse_url``.

    Connections open at first use; :meth:`close` gives them back. Make one per process. Operators' calls (list,
    rebuild, drop) belong to one thread at a time; :meth:`run` makes connections of its own for each follower.
    """

    def __init__(  # noqa: PLR0913 - all that a follower is told, and all whom it tells
        self,
        *,
        postgres_dsn: str,
        redis_url: str,
        clickhouse_url: str,
        shard: int = 0,
        limits: FollowerLimits | None = None,
        on_batch: OnBatch = lambda _follower, _events, _seconds: None,
        watched: Callable[[Target], Target] = lambda target: target,
        kafka: Settings | None = None,
        on_stranger: Stranger = ignore_strangers,
    ) -> None:
        self._dsn = postgres_dsn
        self._shard = shard
        self._limits = limits or FollowerLimits()
        self._on_batch = on_batch
        self._on_stranger = on_stranger  # Told of records on topics that no relay wrote.
        self._watched = watched  # Traces are put around targets here.
        self._kafka = kafka  # Where to follow over topics; without it followers read the store.
        self._redis = connect(redis_url)
        self._clickhouse_url = clickhouse_url
        self.facts = FactsStore(clickhouse_url)
        self._feed = StoreFeed(postgres_dsn, shard=shard)
        self._coordination = PostgresCoordination(postgres_dsn)
        self._followers: list[Follower] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back all connections."""
        self._feed.close()
        self._coordination.close()
        self.facts.close()
        self._redis.close()

    def migrate(self) -> list[str]:
        """Apply pending migrations of the facts; returns their names. Raises MigrationRefused."""
        return self.facts.migrate()

    def check(self) -> None:
        """Raise WrongEvictionPolicy when Redis may throw parts of models away."""
        require_no_eviction(self._redis)

    def run(self, stop: Signal) -> bool:
        """Follow the log until told to stop, one thread per follower; returns whether none was halted at the end.

        A halted follower looks again every few seconds: an operator may have rebuilt what was wrong. Until then it
        says so in its status and in the log.
        """
        self._wait_for_stores(stop)
        healthy: dict[str, bool] = {}
        threads = [
            Thread(target=self._keep_following, args=(name, stop, healthy), name=f"follow-{name}")
            for name in (REDIS_FOLLOWER, FACTS_FOLLOWER)
        ]
        for thread in threads:
            thread.start()
        join_hearing_signals(threads)
        return all(healthy.values())

    def _wait_for_stores(self, stop: Signal) -> None:
        """Servers may come up after us. Raises what the last look raised once we have waited for long enough."""
        for looks_left in range(STORE_LOOKS_MAX, -1, -1):
            try:
                self.check()
                self.migrate()
                self._check_topics()
            except (RedisUnavailable, ClickHouseUnavailable, KafkaUnavailable) as error:
                if looks_left == 0 or stop.is_set():
                    raise
                _log.warning("stores_awaited", reason=str(error), looks_left=looks_left)
                time.sleep(STORE_LOOK_SECONDS)  # Not a wait on `stop`: its own signal handler could deadlock with it.
            else:
                return

    def _check_topics(self) -> None:
        """Raises Halt when topics are missing, WrongPartitions when streams lie elsewhere than is set."""
        if self._kafka is None:
            return
        from infra.kafka.admin import TopicsMissing, require_topics

        try:
            require_topics(self._kafka, EVENT_TOPICS)
        except TopicsMissing as error:
            raise Halt(f"followers are to read Kafka: {error}") from error

    def statuses(self) -> Sequence[FollowerStatus]:
        """How the followers of this process are."""
        return [follower.status() for follower in self._followers]

    def states(self) -> Sequence[ProjectionState]:
        """Every projection as it stands, each by itself: one store that is away hides only its own.

        Raises StoreUnavailable, when the log itself is out of reach.
        """
        head = self._feed.head()
        epoch = self._feed.epoch() if head else None  # A store that nobody opened has none yet.
        return [self._as_it_stands(self._state_of(name, head), head, epoch) for name in NAMES]

    def checksums(self, names: Sequence[str] = NAMES) -> Mapping[str, str]:
        """What projections hold now, in one text each ("" when not built). Comparable while nothing is written.

        Raises UnknownProjection, FactsDamaged.
        """
        epoch = self._feed.epoch()
        found: dict[str, str] = {}
        for name in names:
            what = self._rebuildable(name)
            live = what.live(epoch)
            found[name] = "" if live is None else what.checksum(live)
        return found

    def rebuild(self, name: str, progress: Progress = lambda _offset, _head: None) -> RebuildReport:
        """Build one projection anew and switch to it. Raises UnknownProjection, RebuildRefused, Busy …"""
        return rebuild(self._rebuildable(name), self._feed, self._coordination, progress=progress)

    def drop(self, name: str) -> int:
        """Delete the versions that readers do not use; returns how many. Raises UnknownProjection."""
        return self._rebuildable(name).drop()

    def redis_follower(
        self, feed: StoreFeed, coordination: PostgresCoordination, source: LaneSource | None = None
    ) -> Follower:
        """The follower of all read models; over lanes, when there is a ``source`` of them."""
        targets = [
            self._watched(
                RedisTarget(
                    self._store(model),
                    coordination,
                    shard=self._shard,
                    lanes=() if source is None else lanes_of(topics_of(model), source.partitions),
                )
            )
            for model in READ_MODELS.values()
        ]
        witness = RedisWitness(self._redis, self._shard)
        return self._follower(REDIS_FOLLOWER, source, feed, targets, coordination, limits=self._limits, witness=witness)

    def facts_follower(
        self,
        feed: StoreFeed,
        coordination: PostgresCoordination,
        facts: FactsStore,
        source: LaneSource | None = None,
    ) -> Follower:
        """The follower of the facts; over lanes, when there is a ``source`` of them."""
        limits = FollowerLimits(
            batch_events_max=max(self._limits.batch_events_max, 5_000),
            poll_seconds=self._limits.poll_seconds,
            tend_seconds=self._limits.tend_seconds,
            linger_seconds=max(self._limits.linger_seconds, FACTS_LINGER_SECONDS),
        )
        lanes = () if source is None else lanes_of(EVENT_TOPICS, source.partitions)
        target = FactsTarget(facts, coordination, shard=self._shard, lanes=lanes)
        watched = [self._watched(target)]
        return self._follower(FACTS_FOLLOWER, source, feed, watched, coordination, limits=limits, witness=target)

    def lane_source(self, name: str) -> "LaneConsumer | None":
        """One more member of a follower's group, if followers read topics. To be closed by the caller."""
        if self._kafka is None:
            return None
        from infra.kafka.consumer import LaneConsumer

        topics = (
            EVENT_TOPICS if name == FACTS_FOLLOWER else {each for m in READ_MODELS.values() for each in topics_of(m)}
        )
        return LaneConsumer(self._kafka, f"{name}-{self._shard}", topics)

    def _follower(
        self,
        name: str,
        source: LaneSource | None,
        feed: StoreFeed,
        targets: Sequence[Target],
        coordination: PostgresCoordination,
        *,
        limits: FollowerLimits,
        witness: Witness,
    ) -> Follower:
        def on_batch(events: int, seconds: float) -> None:
            self._on_batch(name, events, seconds)

        if source is None:
            return Follower(name, feed, targets, coordination, limits, on_batch, witness=witness)
        return LaneFollower(
            name,
            source,
            feed,
            targets,
            coordination,
            limits,
            on_batch=on_batch,
            witness=witness,
            on_stranger=self._on_stranger,
        )

    def _keep_following(self, name: str, stop: Signal, healthy: dict[str, bool]) -> None:
        feed = StoreFeed(self._dsn, shard=self._shard)
        coordination = PostgresCoordination(self._dsn)
        facts = FactsStore(self._clickhouse_url)
        source = self.lane_source(name)
        if name == REDIS_FOLLOWER:
            follower = self.redis_follower(feed, coordination, source)
        else:
            follower = self.facts_follower(feed, coordination, facts, source)
        self._followers.append(follower)
        healthy[name] = False
        try:
            while not stop.is_set():
                try:
                    follower.run(stop)
                except Exception as error:  # noqa: BLE001 - whatever halted it, the other follower goes on.
                    _log.error("follower_halted_looks_again", follower=name, reason=str(error))
                    stop.wait(HALTED_AGAIN_SECONDS)
            healthy[name] = follower.status().state == "stopped" and not follower.status().halted
        finally:
            if source is not None:
                source.close()
            feed.close()
            coordination.close()
            facts.close()

    def _rebuildable(self, name: str) -> Rebuildable:
        if name == POSITION_NAME:
            return RebuildableFacts(self.facts, self._coordination, shard=self._shard, lock=FACTS_FOLLOWER)
        if (model := READ_MODELS.get(name)) is None:
            raise UnknownProjection(name)
        return RebuildableModel(self._store(model), self._coordination, shard=self._shard, lock=REDIS_FOLLOWER)

    def _store(self, model: ReadModel) -> ModelStore:
        return ModelStore(self._redis, model, self._shard)

    def _state_of(self, name: str, head: int) -> ProjectionState:
        try:
            return self._facts_state(head) if name == POSITION_NAME else self._model_state(name, head)
        except (RedisUnavailable, ClickHouseUnavailable, FactsDamaged) as error:
            return self._state(name, head, None, active=None, versions=(), ready=False, problem=str(error))

    def _as_it_stands(self, state: ProjectionState, head: int, epoch: str | None) -> ProjectionState:
        """With the reason why it cannot go on, when its place is not one of this log."""
        if not state.offset or state.epoch is None or epoch is None:
            return state
        if state.epoch != epoch:
            return replace(state, halted=str(OtherEpoch(state.name, state.epoch, epoch)))
        mark = state.mark
        is_same = mark is None or mark.position.epoch != epoch or self._is_in_log(mark)
        if state.offset <= head and is_same:
            return state
        return replace(state, halted=str(LogWentBack(state.name, state.offset, head)))

    def _is_in_log(self, mark: Mark) -> bool:
        return self._coordination.mark_at(mark.position.offset) == mark.event

    def _model_state(self, name: str, head: int) -> ProjectionState:
        control = self._store(READ_MODELS[name]).control()
        at = None if control.active is None else control.checkpoints.get(control.active)
        versions = tuple(sorted(control.checkpoints))
        ready = at is not None and at.offset >= control.ready_at
        state = self._state(name, head, at, active=control.active, versions=versions, ready=ready)
        return replace(state, mark=RedisWitness(self._redis, self._shard).last())

    def _facts_state(self, head: int) -> ProjectionState:
        found = self.facts.checkpoint()
        if found is None:
            return self._state(POSITION_NAME, head, None, active=None, versions=(), ready=False)
        version, mark = found.version, None if found.noted is None else Mark(found.noted, found.mark)
        state = self._state(POSITION_NAME, head, found.position, active=version, versions=(version,), ready=True)
        return replace(state, mark=mark)

    def _state(
        self,
        name: str,
        head: int,
        at: Position | None,
        *,
        active: int | None,
        versions: tuple[int, ...],
        ready: bool,
        problem: str | None = None,
    ) -> ProjectionState:
        return ProjectionState(
            name=name,
            follower=FACTS_FOLLOWER if name == POSITION_NAME else REDIS_FOLLOWER,
            active=active,
            versions=versions,
            offset=None if at is None else at.offset,
            lag=None if at is None else max(0, head - at.offset),
            parked=0 if active is None else self._coordination.parked_count([f"{name}:v{active}"]),
            ready=ready,
            epoch=None if at is None else at.epoch,
            problem=problem,
        )


def topics_of(model: ReadModel) -> Sequence[Topic]:
    """The topics that carry what a model hears."""
    return list(dict.fromkeys(topic_of(kind) for kind in sorted(model.kinds)))
