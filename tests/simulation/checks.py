"""What must hold whenever the world is quiet: I1 to I12, by books that share nothing with what they check."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import orjson

from command.handlers import KINDS
from command.ports import CommandKey
from command.states import Begun, SnapshotFormats, fold
from command.states import Entry as State
from contracts.envelope import Recorded
from contracts.events import SagaHeard
from contracts.identity import parse_stream
from contracts.read_models import bucket_key
from infra.redis.models import encode
from infra.sagas.hearing import HeardFact, Hearing, Saga
from infra.sagas.ports import FOLLOWER
from projections.catalog import READ_MODELS
from projections.facts import rows_of
from projections.model import Entry, Place, apply_once
from query.verify.answers import check_answers
from query.verify.books import LOCKED, Books
from query.verify.raw import RawAnswer, RawEvent, Violation
from sagas.checkout import WAITING, Step
from tests.simulation.read_side import bucket_prefix
from tests.simulation.store import SimulatedLog

if TYPE_CHECKING:
    from tests.simulation.processes import EngineProcess
    from tests.simulation.world import World

# A checkout that waits for the write side's answer gets it.
NEVER_LAST: Final = WAITING - {Step.AWAITING_ORDER}


class LogChecks:
    """Looks at the log, the command log, the counters, the snapshots, the engines' memories, and what was told."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._books = Books()
        self._folded = 0  # Events, not offsets.
        self._ends: dict[tuple[tuple[str, str], str], int] = {}
        self._formats = SnapshotFormats()
        self._news: list[Recorded] = []
        self._documents: dict[tuple[str, Place], Entry] = {}
        self._rows = 0
        self._hearing = Hearing(defaultdict(Saga), frozenset())

    def look(self, *, at_the_end: bool) -> list[Violation]:
        """Everything that does not hold."""
        self._fold()
        found = list(self._books.finish() if at_the_end else self._books.violations)
        found += check_answers(self._books, self._answers())
        found += self._told()
        found += self._guards()
        found += self._replayed_states()
        found += self._sagas()
        found += self._read_models()
        found += self._facts()
        found += self._books.overdue_locks()
        if at_the_end:
            found += self._nothing_is_left_over()
        return found

    def _fold(self) -> None:
        news = self._world.store.events[self._folded :]
        self._folded += len(news)
        self._news = news
        raws = [self._raw(recorded) for recorded in news]
        self._books.fold(raws)
        for event in raws:
            self._ends[event.realm, event.command_id] = event.offset

    def _raw(self, recorded: Recorded) -> RawEvent:
        """The row that verification would read; its content becomes part of the trace."""
        event, about, realm = recorded.event, recorded.metadata, recorded.realm
        content = event.__pydantic_serializer__.to_json(event)
        self._world.trace.add(b"%d %s %d " % (recorded.offset, recorded.stream.encode(), recorded.version) + content)
        return RawEvent(
            recorded.offset,
            recorded.stream,
            recorded.version,
            event.type,
            about.event_id,
            realm.tenant_id,
            realm.app_id,
            about.occurred_at,
            about.recorded_at,
            about.command_id,
            orjson.loads(content),
        )

    def _answers(self) -> Iterator[RawAnswer]:
        for key, (_, logged) in self._world.store.answers.items():
            yield RawAnswer(
                *key.realm,
                key.command_id,
                logged.command_type,
                logged.content_hash,
                logged.status,
                logged.offset,
                logged.data.get("coupon_id"),
            )

    def _told(self) -> Iterator[Violation]:
        """I2, I3, I4: what clients were told is on record as it was told, and its effect is where they were told."""
        clients, store = self._world.clients, self._world.store
        for key in clients.unanswered:
            yield Violation("I2", key.command_id, "never answered")
        for key, told in clients.told.items():
            logged = store.answers.get(key)
            if logged is None:
                yield Violation("I2", key.command_id, f"told {told.code}, but it is not on record")
            elif (logged[1].status, logged[1].code, logged[1].data, logged[1].offset) != (
                told.status, told.code, told.data, told.offset,
            ):  # fmt: skip
                yield Violation("I4", key.command_id, f"told {told}, but {logged[1]} is on record")
            end = self._ends.get(((key.realm.tenant_id, key.realm.app_id), key.command_id))
            if end is not None and end != told.offset:
                yield Violation("I2", key.command_id, f"told that its effect is at {told.offset}, but it ends at {end}")

    def _guards(self) -> Iterator[Violation]:
        """I1: the counters that guard limits say what the log says."""
        counters = {key: versions[-1][1] for key, versions in self._world.store.counts.items()}
        for key, expected in self._books.guard_counters():
            if counters.get(key, 0) != expected:
                yield Violation("I1", f"guard {key}", f"the log says {expected}, the counter {counters.get(key, 0)}")

    def glance(self, process: "EngineProcess") -> None:
        """I7 at any time: of what is new, an engine that is up with the log remembers the latest version or nothing."""
        engine, store = process.engine, self._world.store
        is_up = (engine._seen_epoch, engine._seen_offset) == (store.epoch, store.last_offset)
        under_way = engine._decided is not None or engine._sent is not None
        if not is_up or under_way or store.holder is not None:  # Some of it may not be committed.
            return
        for event in store.events[process.glanced :]:
            remembered = engine._decider._cache._entries.get(event.stream)
            if remembered is not None:
                version = 1 if isinstance(remembered, Begun) else remembered.version
                if version != (latest := store.streams[event.stream][-1].version):
                    detail = f"{process.name} takes it to be at version {version}"
                    self._world.violation("I7", f"{event.stream}@{latest}", detail)
        process.glanced = len(store.events)

    def _replayed_states(self) -> Iterator[Violation]:
        """I7: what engines remember and what snapshots hold is what all events make, byte for byte."""
        store = self._world.store
        with SimulatedLog(store).reading() as view:
            histories = view.histories(store.streams)
            shortened = view.histories(store.streams, schema_hashes=self._formats.hashes(KINDS.values()))
        for stream, history in shortened.items():
            if history.snapshot is not None:
                kind = KINDS[parse_stream(stream).kind]
                replayed = fold(kind, histories[stream], self._formats)
                yield from self._same("its snapshot", stream, fold(kind, history, self._formats), replayed)
        for engine in self._world.engines:
            if (engine.engine._seen_epoch, engine.engine._seen_offset) != (store.epoch, store.last_offset):
                continue  # It will hear of the rest before it decides again.
            for stream, remembered in engine.engine._decider._cache._entries.items():
                entry = remembered.entry(stream) if isinstance(remembered, Begun) else remembered
                replayed = fold(entry.kind, histories.get(stream), self._formats)
                yield from self._same(engine.name, stream, entry, replayed)

    def _sagas(self) -> Iterator[Violation]:
        """I6: sagas heard every fact once, in order, and remember what one that hears them all in one go would."""
        new = len(self._hearing.heard)
        for fact in self._in_the_order_of_hearing():
            self._hearing.take(fact)
        heard = self._hearing.heard[new:]
        expected = {(each.stream, each.version): each.heard for each in heard}
        stored = {(each.stream, each.version): each.event for each in self._news if isinstance(each.event, SagaHeard)}
        for place in sorted(expected.keys() | stored.keys()):
            if expected.get(place) != stored.get(place):
                what = f"remembers {stored.get(place)}, and should {expected.get(place)}"
                yield Violation("I6", f"{place[0]}@{place[1]}", what)
        position, head = self._world.saga_tables.positions.get(FOLLOWER), self._world.store.last_offset
        if position is None or position[1] != head:
            yield Violation("I6", "sagas", f"stand at {position}, and the log ends at {head}")
        for each in heard:
            yield from self._sent(each)
        yield from self._timers()

    def _in_the_order_of_hearing(self) -> list[Recorded]:
        """Over the log it is the log's; lanes bring facts of different streams in any, and what was heard tells which.

        What no saga remembers comes last: timers are set and cleared by one stream, in its own order.
        """
        if not self._world.plan.sagas_hear_lanes:
            return self._news
        facts = {event.metadata.event_id: event for event in self._news}
        named = [each.event.fact_event_id for each in self._news if isinstance(each.event, SagaHeard)]
        return [*(facts.pop(name) for name in dict.fromkeys(named) if name in facts), *facts.values()]

    def _sent(self, heard: HeardFact) -> Iterator[Violation]:
        """I2, I3: what a saga owes was answered, under an id that follows from the fact alone."""
        cause = heard.fact.metadata.event_id
        for sent in heard.heard.sends:
            if CommandKey(heard.fact.realm, sent.command_id) not in self._world.store.answers:
                yield Violation("I2", sent.command_id, f"sent by {heard.stream}@{heard.version}, never answered")
            if not sent.command_id.startswith(f"saga:{cause}:{sent.type}"):
                yield Violation("I3", sent.command_id, f"sent by {heard.stream}@{heard.version} because of {cause}")

    def _timers(self) -> Iterator[Violation]:
        """I6: timers are those that the log sets and does not clear, and none is overdue."""
        tables = self._world.saga_tables
        for key, alarm in tables.timers.items():
            if alarm.timer != self._hearing.timers.get(key):
                should = self._hearing.timers.get(key)
                yield Violation("I6", f"timer {key}", f"set to {alarm.timer}, and should be {should}")
            if alarm.timer.due_at <= tables.clocks.get(key[0], self._world.clock()):
                yield Violation("I6", f"timer {key}", "due, and never fired")

    def _read_models(self) -> Iterator[Violation]:
        """I6, I8: every document is what all its events make of it, one after the other, byte for byte."""
        changed: set[tuple[str, Place]] = set()
        for event in self._news:
            for model in READ_MODELS.values():
                for place in model.route(event) if event.name.kind in model.kinds else ():
                    entry = apply_once(model, self._documents.get((model.name, place)), event)
                    if entry is not None:
                        self._documents[model.name, place] = entry
                        changed.add((model.name, place))
        stores = self._world.read_stores
        versions = {name: stores.models[name].active or 0 for name in READ_MODELS}
        yield from self._standing_of_models(versions)
        for name, place in sorted(changed, key=str):
            bucket = stores.buckets.get(bucket_key(name, versions[name], place.realm, place.key))
            stored = None if bucket is None else bucket.documents.get(place)
            expected = encode(self._documents[name, place])
            if stored != expected:
                yield Violation("I8", f"{name} {place}", f"the log makes {expected!r}, but {stored!r} is there")
        live = tuple(bucket_prefix(name, version) for name, version in versions.items())
        held = sum(len(bucket.documents) for key, bucket in stores.buckets.items() if key.startswith(live))
        if held != len(self._documents):
            yield Violation("I8", "read models", "documents that no event made")

    def _standing_of_models(self, versions: Mapping[str, int]) -> Iterator[Violation]:
        """I6: what readers use is at the end of the log, and nothing of it waits any more."""
        end = (self._world.store.epoch, self._world.store.last_offset)
        for name, version in versions.items():
            position = self._world.read_stores.models[name].checkpoints.get(version)
            if position is None or (position.epoch, position.offset) != end:
                yield Violation("I6", name, f"stands at {position}, and the log ends at {end}")
        labels = {f"{name}:v{version}" for name, version in versions.items()}
        for label, stream, version in self._world.parked:
            if label in labels:
                yield Violation("I6", f"{stream}@{version}", f"is still parked by {label}")

    def _facts(self) -> Iterator[Violation]:
        """I6, I8: the rows are those of all events, each once."""
        facts, head = self._world.read_stores.facts, self._world.store.last_offset
        if facts.checkpoint is None or facts.checkpoint.position.offset != head:
            yield Violation("I6", "facts", f"stand at {facts.checkpoint}, and the log ends at {head}")
        for event in self._news:
            if (found := rows_of(event)) is not None:
                table, rows = found
                for row in rows:
                    self._rows += 1
                    if facts.rows[table.name].get((row[2], row[3])) != row:
                        yield Violation("I8", f"{table.name} {row[:4]}", "not the row that its event makes")
        if (held := sum(map(len, facts.rows.values()))) != self._rows:
            yield Violation("I8", "facts", f"{held} rows, and the log makes {self._rows}")

    def _nothing_is_left_over(self) -> Iterator[Violation]:
        """I9: once everything that ends has ended, no coupon is locked and no budget reserved."""
        for (_, coupon_id), coupon in self._books.coupons.items():
            if coupon.status == LOCKED:
                yield Violation("I9", coupon_id, f"locked for {coupon.order_id} for ever")
        for (_, budget_id), budget in self._books.budgets.items():
            if any(budget.reserved.values()):
                yield Violation("I9", budget_id, f"reserved for ever: {dict(budget.reserved)}")
        for (_, _, order_id), standing in self._world.saga_tables.standings.items():
            if standing.step in NEVER_LAST:
                yield Violation("I2", f"order {order_id}", f"its checkout stays at {standing.step} for ever")

    def _same(self, who: str, stream: str, one: State, other: State) -> Iterator[Violation]:
        format_ = self._formats.of(other.kind)
        if one.version != other.version:
            yield Violation("I7", f"{stream}@{other.version}", f"{who} takes it to be at version {one.version}")
        elif format_.write(stream, one).state != format_.write(stream, other).state:
            yield Violation("I7", f"{stream}@{other.version}", f"{who} differs from the replayed state")
