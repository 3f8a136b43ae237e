"""One read model in Redis: its versions side by side, their checkpoints, their buckets and their checksums."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar, cast

import orjson
import redis

from contracts.position import Position
from contracts.read_models import (
    ACTIVE_FIELD,
    NEVER_READY,
    POSITION_FIELD,
    READY_FIELD,
    bucket_key,
    checkpoint_field,
    control_key,
    lane_field,
    list_key,
    model_at,
)
from infra.redis.connection import translated
from infra.redis.scripts import ACTIVATE, BEGIN_LANES, COMPARE_AND_SET, MOVE_LANES, WRITE_BUCKET
from projections.model import Entry, Place, ReadModel

T = TypeVar("T")

PIPELINE_MAX = 1_000  # Commands in one round trip.
SCAN_COUNT = 1_000
NOT_LOOKED_AT = b"*"
_MODULUS = 1 << 128


class CheckpointLost(Exception):
    """The checkpoint is not what this writer left there: the model was flushed, or somebody else moved it."""


class BucketDamaged(Exception):
    """A bucket has content but no position, or content that nobody here wrote: it is rebuilt, not trusted."""


@dataclass(frozen=True, slots=True)
class Control:
    """What the control hash says: the version that readers use, and where each version stands.

    ``ready_at``: the offset that the active version has to reach before it is served (it began from nothing).
    """

    active: int | None
    ready_at: int = 0
    checkpoints: Mapping[int, Position] = field(default_factory=dict)
    lanes: Mapping[int, Mapping[str, Position]] = field(
        default_factory=dict
    )  # Per version that has lanes, by their keys.

    @property
    def newest(self) -> int:
        """The highest version there is, 0 when there is none."""
        return max(self.checkpoints, default=0)


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a model holds, in one number: independent of order, batches and version. ``documents`` counts fields."""

    documents: int
    digest: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a writer saw: entries, and the stamp of every bucket that it looked at ("" where there was none)."""

    entries: dict[Place, Entry] = field(default_factory=dict)
    stamps: dict[str, bytes] = field(default_factory=dict)

    def add(self, later: "Seen") -> None:
        """Take in what was seen later. A bucket's first stamp stays: what was seen with it may be older than that."""
        self.entries.update(later.entries)
        for bucket, stamp in later.stamps.items():
            self.stamps.setdefault(bucket, stamp)


class ModelStore:
    """Reads and writes one read model of one shard. Safe in several threads; every write belongs to one version."""

    def __init__(self, client: "redis.Redis", model: ReadModel, shard: int = 0) -> None:
        self.model = model
        self._name = model_at(model.name, shard)
        self._client = client
        self._write_bucket = client.register_script(WRITE_BUCKET)
        self._compare_and_set = client.register_script(COMPARE_AND_SET)
        self._begin_lanes = client.register_script(BEGIN_LANES)
        self._move_lanes = client.register_script(MOVE_LANES)
        self._activate = client.register_script(ACTIVATE)
        self._control = control_key(self._name)

    def control(self) -> Control:
        """The control hash. Raises RedisUnavailable, as everything here."""
        with translated():
            fields = cast(dict[bytes, bytes], self._client.hgetall(self._control))
        active = fields.pop(ACTIVE_FIELD.encode(), None)
        ready_at = int(fields.pop(READY_FIELD.encode(), 0))
        checkpoints: dict[int, Position] = {}
        lanes: dict[int, dict[str, Position]] = {}
        for name, value in fields.items():
            version, _, lane = name.decode().removeprefix("v").partition("/")
            if lane:
                lanes.setdefault(int(version), {})[lane] = _lane_position(value)
            else:
                checkpoints[int(version)] = Position.parse(value.decode())
        return Control(None if active is None else int(active), ready_at, checkpoints, lanes)

    def begin(self, version: int, start: Position, *, ready_at: int | None = None) -> None:
        """Make a new, empty version. Whatever lies under its name is a leftover.

        ``ready_at``: there is nothing to serve meanwhile; make it the active one, to be served from that offset on.
        """
        self._purge(version)
        self._forget(version)
        fields: dict[Any, Any] = {checkpoint_field(version): start.token()}
        if ready_at is not None:
            fields |= {ACTIVE_FIELD: version, READY_FIELD: ready_at}
        with translated():
            self._client.hset(self._control, mapping=fields)

    def withdraw(self) -> None:
        """Have readers wait: what the active version shows belongs to a history that was given up."""
        with translated():
            self._client.hset(self._control, READY_FIELD, NEVER_READY)

    def load(self, version: int, places: Collection[Place], begun: Collection[Place] = ()) -> Seen:
        """What is stored at these places. Raises BucketDamaged for a bucket that has documents but no position.

        ``begun``: those whose documents are expected to begin now. A bucket of nothing else is not looked at; writing
        it succeeds only where there is really nothing yet.
        """
        if len(begun) == len(places):
            return Seen()
        buckets = _by_bucket(self._name, version, places)
        if begun:
            buckets = {key: inside for key, inside in buckets.items() if not all(place in begun for place in inside)}
        return self._load(buckets)

    def write(self, version: int, offset: int, entries: Mapping[Place, Entry], seen: Seen) -> bool:
        """Write whole entries, bucket by bucket, where the bucket is still as it was seen.

        Returns whether every bucket was written: if not, somebody else wrote one first; load and fold again.
        """
        written = True
        with translated():
            for chunk in _chunks(_by_bucket(self._name, version, entries).items(), PIPELINE_MAX):
                with self._client.pipeline(transaction=False) as pipe:
                    for key, places in chunk:
                        arguments: list[Any] = [seen.stamps.get(key, NOT_LOOKED_AT), offset]
                        for place in places:
                            entry = entries[place]
                            score = entry.first if self.model.listed else b""
                            arguments += [place.field, encode(entry), score]
                        self._write_bucket(keys=[key, list_key(key)], args=arguments, client=pipe)
                    written = all(pipe.execute()) and written
        return written

    def advance(self, version: int, seen: Position, position: Position, lanes: Collection[str] = ()) -> None:
        """Move a version's checkpoint on. Raises CheckpointLost when it is not where the caller saw it.

        ``lanes``: those that the version has, and loses by this: they are left behind.
        """
        arguments = [checkpoint_field(version), seen.token(), position.token()]
        arguments += [lane_field(version, lane) for lane in lanes]
        with translated():
            moved = self._compare_and_set(keys=[self._control], args=arguments)
        if not moved:
            raise CheckpointLost(f"{self._name} v{version} is no longer at offset {seen.offset}")

    def begin_lanes(self, version: int, seen: Position, lanes: Collection[str]) -> None:
        """Begin those of these lanes that the version does not have yet at its checkpoint. Raises CheckpointLost."""
        arguments = [checkpoint_field(version), seen.token(), _lane_value(seen)]
        arguments += [lane_field(version, lane) for lane in lanes]
        with translated():
            begun = self._begin_lanes(keys=[self._control], args=arguments)
        if not begun:
            raise CheckpointLost(f"{self._name} v{version} is no longer at offset {seen.offset}")

    def move_lanes(
        self, version: int, moves: Mapping[str, tuple[Position, Position]], lanes: Collection[str]
    ) -> Position:
        """Move some lanes on, each from where it was seen; returns the checkpoint: where the last of ``lanes`` is.

        Raises CheckpointLost when one is not where the caller saw it; none is moved then.
        """
        arguments: list[Any] = [checkpoint_field(version), len(moves)]
        for lane, (seen, position) in moves.items():
            arguments += [lane_field(version, lane), _lane_value(seen), _lane_value(position)]
        arguments += [lane_field(version, lane) for lane in lanes]
        with translated():
            token = self._move_lanes(keys=[self._control], args=arguments)
        if token is None:
            names = ", ".join(moves)
            raise CheckpointLost(f"{self._name} v{version} is elsewhere in one of its lanes {names}")
        return Position.parse(cast(bytes, token).decode())

    def activate(self, version: int, seen: Position) -> None:
        """Let readers use this version from now on. Raises CheckpointLost as above."""
        with translated():
            done = self._activate(keys=[self._control], args=[version, seen.token(), seen.offset])
        if not done:
            raise CheckpointLost(f"{self._name} v{version} is no longer at offset {seen.offset}")

    def drop(self, version: int) -> int:
        """Delete a version that is not active; returns how many keys it had. Raises ValueError for the active one."""
        if self.control().active == version:
            raise ValueError(f"{self._name} v{version} is what readers use; switch to another version first")
        self._forget(version)
        return self._purge(version)

    def checksum(self, version: int) -> Checksum:
        """Read everything of one version and add it up. It has to stand still meanwhile."""
        total, documents = 0, 0
        prefix = len(f"{self._name}:v{version}:")
        for key, fields, listed in self._buckets(version):
            documents += len(fields)
            total += sum(digest(key[prefix:], name, value) for name, value in fields.items())
            total += sum(digest(key[prefix:], name, b"%d" % score) for name, score in listed)
        return Checksum(documents, f"{total % _MODULUS:032x}")

    def _load(self, buckets: Mapping[str, Sequence[Place]]) -> Seen:
        seen = Seen()
        with translated():
            for chunk in _chunks(buckets.items(), PIPELINE_MAX):
                with self._client.pipeline(transaction=False) as pipe:
                    for key, places in chunk:
                        pipe.hmget(key, [POSITION_FIELD, *(place.field for place in places)])
                    for (key, places), (stamp, *values) in zip(chunk, pipe.execute(), strict=True):
                        stored = {place: value for place, value in zip(places, values, strict=True) if value}
                        if stored and stamp is None:
                            raise BucketDamaged(f"{key} has documents but no position: rebuild {self.model.name}")
                        seen.stamps[key] = stamp or b""
                        seen.entries.update((place, self._decode(key, value)) for place, value in stored.items())
        return seen

    def _decode(self, key: str, value: bytes) -> Entry:
        try:
            return decode(value)
        except (ValueError, KeyError, TypeError) as error:
            raise BucketDamaged(f"{key} holds what nobody here wrote: rebuild {self.model.name}") from error

    def _buckets(self, version: int) -> Iterator[tuple[str, dict[bytes, bytes], list[tuple[bytes, int]]]]:
        """Every bucket once: key, fields without the position, list with scores."""
        keys = {key for key in self._keys(version) if not key.endswith(b":list")}
        with translated():
            for chunk in _chunks(sorted(keys), PIPELINE_MAX):
                with self._client.pipeline(transaction=False) as pipe:
                    for key in chunk:
                        pipe.hgetall(key)
                    buckets = pipe.execute()
                    for key in chunk if self.model.listed else ():
                        pipe.zrange(list_key(key.decode()), 0, -1, withscores=True, score_cast_func=int)
                    lists = pipe.execute() if self.model.listed else [[]] * len(chunk)
                for key, fields, listed in zip(chunk, buckets, lists, strict=True):
                    fields.pop(POSITION_FIELD.encode(), None)
                    yield key.decode(), fields, listed

    def _forget(self, version: int) -> None:
        """No checkpoint and no lanes any more."""
        lanes = self.control().lanes.get(version, {})
        with translated():
            self._client.hdel(self._control, checkpoint_field(version), *(lane_field(version, lane) for lane in lanes))

    def _purge(self, version: int) -> int:
        deleted = 0
        with translated():
            for chunk in _chunks(self._keys(version), PIPELINE_MAX):
                with self._client.pipeline(transaction=False) as pipe:
                    for key in chunk:
                        pipe.unlink(key)
                    deleted += sum(pipe.execute())
        return deleted

    def _keys(self, version: int) -> Iterator[bytes]:
        with translated():
            yield from self._client.scan_iter(match=f"{self._name}:v{version}:*", count=SCAN_COUNT)


def encode(entry: Entry) -> bytes:
    """How an entry is stored; the same entry is always the same bytes."""
    body = {"first": entry.first, "seen": entry.seen, "doc": entry.document}
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def decode(value: bytes) -> Entry:
    """The inverse of :func:`encode`. Raises ValueError, KeyError or TypeError for anything else."""
    body = orjson.loads(value)
    return Entry(int(body["first"]), dict(body["seen"]), dict(body["doc"]))


def _lane_value(position: Position) -> str:
    return f"{position.offset} {position.token()}"


def _lane_position(value: bytes) -> Position:
    return Position.parse(value.decode().partition(" ")[2])


def digest(tag: str, name: bytes, value: bytes) -> int:
    """One field's share of a checksum: 128 bits of what it is called and what it says."""
    text = b"\x00".join((tag.encode(), name, value))
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")


def _by_bucket(model: str, version: int, places: Iterable[Place]) -> dict[str, list[Place]]:
    buckets: dict[str, list[Place]] = {}
    for place in places:
        buckets.setdefault(bucket_key(model, version, place.realm, place.key), []).append(place)
    return buckets


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
