"""Rebuild one projection blue/green: a new version beside the old, compared at the same position, then switched."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from infra.clickhouse.facts import FactsCheckpoint, FactsStore
from infra.projections.facts_target import FactsTarget
from infra.projections.ports import Coordination, EventsSkipped, Feed, Halt, Target
from infra.projections.redis_target import RedisTarget
from infra.projections.runner import DAMAGED
from infra.redis.models import CheckpointLost, ModelStore

_log = structlog.get_logger(__name__)

BATCH_EVENTS = 5_000
NEAR_EVENTS = 5_000  # So near to the head the rest is caught up under the lock.
CHASES_MAX = 10_000  # Batches without the lock; a log that outruns these needs a quieter hour.

# Called with the offset reached and the head of the log.
Progress = Callable[[int, int], None]


class RebuildRefused(Exception):
    """The new version is worse than what it would replace, or never caught up; nothing was switched."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild did. Checksums are of the same position; ``before`` is None when the old one could not be read."""

    name: str
    from_version: int | None
    to_version: int
    offset: int
    events: int
    before: str | None
    after: str
    parked: int

    @property
    def changed(self) -> bool:
        """Whether the new version says something else than the old one did."""
        return self.before != self.after


class Rebuildable(Protocol):
    """One projection, old and new."""

    @property
    def name(self) -> str:
        """What operators call it."""
        ...

    @property
    def lock(self) -> str:
        """The name that its follower holds while it writes."""
        ...

    def live(self, epoch: str) -> Target | None:
        """The version that readers use, where it stands; None when there is none in this epoch."""
        ...

    def begin(self, epoch: str) -> Target:
        """A new, empty version that nobody reads."""
        ...

    def checksum(self, target: Target) -> str:
        """Everything the version holds, in one text."""
        ...

    def switch(self, shadow: Target) -> None:
        """Let readers use the new version."""
        ...

    def drop(self) -> int:
        """Delete what readers do not use; returns how many versions."""
        ...


def rebuild(
    what: Rebuildable, feed: Feed, coordination: Coordination, *, progress: Progress = lambda _offset, _head: None
) -> RebuildReport:
    """Build a projection anew from the log and put it in the place of the old one.

    The old one goes on meanwhile, except for the end: under the lock of its follower both are brought to the head of
    the log, compared, and switched. Readers see neither error, nor emptiness, nor an older answer. Cut short at any
    point, it is simply begun again. Raises RebuildRefused, EventsSkipped, and what targets and stores raise.
    """
    epoch = feed.epoch()
    shadow = what.begin(epoch)
    events = _chase(what, shadow, feed, coordination, progress)
    with coordination.hold(what.lock):
        if feed.epoch() != epoch:
            raise RebuildRefused(f"the store was restored while {what.name} was rebuilt; begin again")
        head = feed.head()
        events += _catch_up(shadow, feed, coordination, head)
        live = what.live(epoch)
        before = None if live is None else _checksum_of_live(what, live, feed, coordination, head)
        after = what.checksum(shadow)
        parked = _require_no_more_parked(coordination, live, shadow)
        from_version = None if live is None else _version(live)
        what.switch(shadow)
    progress(head, head)
    report = RebuildReport(what.name, from_version, _version(shadow), head, events, before, after, parked)
    _log.info("projection_rebuilt", name=what.name, version=report.to_version, offset=head, before=before, after=after)
    return report


def _chase(what: Rebuildable, shadow: Target, feed: Feed, coordination: Coordination, progress: Progress) -> int:
    """Follow without the lock until the head is near; returns how many events were handed over."""
    events = 0
    for _ in range(CHASES_MAX):
        head = feed.head()
        progress(shadow.position.offset, head)
        if head - shadow.position.offset <= NEAR_EVENTS:
            return events
        events += _one_batch(shadow, feed, coordination, head)
    raise RebuildRefused(f"{what.name} did not catch up with the log; try again when less is written")


def _catch_up(target: Target, feed: Feed, coordination: Coordination, head: int) -> int:
    events = 0
    while target.position.offset < head:  # Each batch moves on, or raises.
        events += _one_batch(target, feed, coordination, head)
    return events


def _one_batch(target: Target, feed: Feed, coordination: Coordination, head: int) -> int:
    after = target.position.offset
    events = [each for each in feed.read(after, BATCH_EVENTS) if each.offset <= head]
    if not events:
        raise Halt(f"the log ends at {head}, but nothing comes after {after}")
    upto = events[-1].offset
    if (counted := coordination.count(after, upto)) != len(events):
        raise EventsSkipped(target.label, after, upto, len(events), counted)
    target.apply(events)
    return len(events)


def _checksum_of_live(what: Rebuildable, live: Target, feed: Feed, coordination: Coordination, head: int) -> str | None:
    try:
        _catch_up(live, feed, coordination, head)
        return what.checksum(live)
    except (*DAMAGED, CheckpointLost) as error:
        _log.warning("old_version_damaged", name=what.name, reason=str(error))  # That is what a rebuild is for.
        return None


def _require_no_more_parked(coordination: Coordination, live: Target | None, shadow: Target) -> int:
    parked = coordination.parked_count([shadow.label])
    parked_live = 0
    if live is not None:  # What was given up there may be digested now, or else is parked again.
        given_up = coordination.dropped_versions(live.label).values()
        parked_live = coordination.parked_count([live.label]) + sum(map(len, given_up))
    if parked > parked_live:
        raise RebuildRefused(
            f"{shadow.label} has parked {parked} events, the version in use {parked_live}: readers would see older "
            f"answers. See `tessera dead-letters list`"
        )
    return parked


def _version(target: Target) -> int:
    return int(target.label.rpartition(":v")[2])


class RebuildableModel:
    """A read model in Redis: versions are keys side by side, the switch is one field."""

    def __init__(self, store: ModelStore, coordination: Coordination, *, shard: int, lock: str) -> None:
        self.name = store.model.name
        self.lock = lock
        self._store = store
        self._coordination = coordination
        self._shard = shard

    def live(self, epoch: str) -> Target | None:
        """The active version, unless there is none or it belongs to another history."""
        control = self._store.control()
        if control.active is None or (position := control.checkpoints.get(control.active)) is None:
            return None
        if position.epoch != epoch:
            return None
        return self._target(control.active, epoch)

    def begin(self, epoch: str) -> Target:
        """A version with a number of its own; leftovers of rebuilds that were cut short are deleted."""
        control = self._store.control()
        active = control.active or 0
        for leftover in [version for version in control.checkpoints if version > active]:
            self._drop(leftover)
        target = RedisTarget(self._store, self._coordination, shard=self._shard, version=active + 1)
        self._coordination.forget(target.label)
        target.begin(epoch)
        return target

    def checksum(self, target: Target) -> str:
        """Of every document and list of the version."""
        found = self._store.checksum(_version(target))
        return f"{found.documents}:{found.digest}"

    def switch(self, shadow: Target) -> None:
        """One field in one slot."""
        self._store.activate(_version(shadow), shadow.position)

    def drop(self) -> int:
        """Delete every version that readers do not use."""
        control = self._store.control()
        unused = [version for version in control.checkpoints if version != control.active]
        for version in unused:
            self._drop(version)
        return len(unused)

    def _target(self, version: int, epoch: str) -> RedisTarget:
        target = RedisTarget(self._store, self._coordination, shard=self._shard, version=version)
        target.load(epoch, 0)
        return target

    def _drop(self, version: int) -> None:
        self._store.drop(version)
        self._coordination.forget(f"{self.name}:v{version}")


class RebuildableFacts:
    """All fact tables: the new version is a database beside, the switch exchanges tables."""

    def __init__(self, store: FactsStore, coordination: Coordination, *, shard: int, lock: str) -> None:
        self.name = FactsTarget.name
        self.lock = lock
        self._store = store
        self._coordination = coordination
        self._shard = shard
        self._shadow: FactsStore | None = None

    def live(self, epoch: str) -> Target | None:
        """The facts, unless they have no position in this history. Raises FactsDamaged when tables are missing."""
        found = self._store.checkpoint()
        if found is None or found.position.epoch != epoch:
            return None
        target = FactsTarget(self._store, self._coordination, shard=self._shard)
        target.load(epoch, 0)
        return target

    def begin(self, epoch: str) -> Target:
        """A fresh shadow database. Tables and views that somebody dropped are brought back (empty) in the live one."""
        self._store.restore()
        version = self._next_version()
        self._shadow = self._store.begin_shadow()
        target = FactsTarget(self._shadow, self._coordination, shard=self._shard, version=version)
        self._coordination.forget(target.label)
        target.load(epoch, 0)
        return target

    def checksum(self, target: Target) -> str:
        """Of every row of every table up to the target's position."""
        store = self._shadow if self._is_shadow(target) else self._store
        assert store is not None
        sums = store.checksums(target.position.offset)
        return " ".join(f"{table}={found.rows}:{found.digest}" for table, found in sorted(sums.items()))

    def switch(self, shadow: Target) -> None:
        """Table by table; both sides hold the log up to the same offset, so a mixture is whole too."""
        self._store.switch_to_shadow()
        self._store.save(FactsCheckpoint(_version(shadow), shadow.position))

    def drop(self) -> int:
        """Delete the shadow, be it an old version or a rebuild that was cut short."""
        had = self._store.has_shadow()
        self._store.drop_shadow()
        return int(had)

    def _next_version(self) -> int:
        found = self._store.checkpoint()
        return 1 if found is None else found.version + 1

    def _is_shadow(self, target: Target) -> bool:
        found = self._store.checkpoint()
        return found is None or found.version != _version(target)
