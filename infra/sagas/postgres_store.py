"""The sagas' store in PostgreSQL: what is heard, owed and due, in the database of the log itself."""

from collections.abc import Callable, Collection, Mapping, Sequence

from command.ports import Batch, StreamHistory
from infra.postgres import dead_letters, outbox, positions, timers
from infra.postgres.dead_letters import ParkedEvent
from infra.postgres.log import PostgresEventLog
from infra.sagas import tables
from infra.sagas.hearing import Hearing
from infra.sagas.ports import FOLLOWER, Found, LanePlaces, Move, Owed, Place, Retry, SagaStore
from infra.sagas.session import Session
from infra.sagas.tables import Cursor
from sagas.timers import DueTimer


class PostgresSagaStore:
    """Implements :class:`infra.sagas.ports.SagaStore` on a connection of its own and on the log's append path."""

    def __init__(self, dsn: str, log: PostgresEventLog, *, name: str = "sagas") -> None:
        """``name``: what the connection is called where the server lists its clients."""
        self._log = log
        self._session = Session(dsn, name=name)

    @property
    def epoch(self) -> str:
        """Which history."""
        return self._log.epoch

    def place(self) -> Place:
        """Where the ear stands."""
        self._look_for_a_restore()
        with self._session.transaction() as cursor:
            parked = dead_letters.parked_streams(cursor, FOLLOWER)
            return Place(positions.read(cursor, FOLLOWER, self.epoch), parked)

    def lanes(self, names: Collection[str]) -> LanePlaces:
        """Where the ear stands in each of its lanes."""
        self._look_for_a_restore()
        with self._session.transaction() as cursor:
            parked = dead_letters.parked_streams(cursor, FOLLOWER)
            return LanePlaces(positions.begin_lanes(cursor, FOLLOWER, self.epoch, names), parked)

    def raise_to_lanes(self, names: Collection[str]) -> int:
        """Move the ear's own position to where all of its lanes have come."""
        with self._session.transaction() as cursor:
            return positions.raise_to_lanes(cursor, FOLLOWER, self.epoch, names)

    def count(self, after: int, upto: int) -> int:
        """How many events the log has there."""
        with self._session.looking() as cursor:
            return tables.count_events(cursor, after, upto)

    def histories(self, streams: Collection[str]) -> Mapping[str, StreamHistory]:
        """What sagas remember."""
        with self._log.reading() as view:
            return view.histories(streams)

    def keep(
        self,
        hearing: Hearing,
        moves: Sequence[Move],
        *,
        done: Sequence[ParkedEvent] = (),
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Everything in one transaction; under the append lock only when there is something to append."""
        if hearing.heard:
            with self._log.appending() as transaction:
                self._move(transaction.cursor, moves)
                transaction.append(Batch(events=hearing.events(transaction.store_now)))
                _write(transaction.cursor, hearing, done)
                before_commit()
        else:
            with self._session.transaction() as cursor:
                self._move(cursor, moves)
                _write(cursor, hearing, done)
                before_commit()

    def _look_for_a_restore(self) -> None:
        """The log tells of a restore once; whoever asks again is in the present epoch."""
        with self._log.reading():
            pass

    def _move(self, cursor: Cursor, moves: Sequence[Move]) -> None:
        for follower, expected, offset in moves:
            positions.advance(cursor, follower, self.epoch, expected=expected, offset=offset)

    def parked(self, stream: str, limit: int) -> Sequence[ParkedEvent]:
        """What is parked of one stream."""
        with self._session.looking() as cursor:
            return dead_letters.find(cursor, follower=FOLLOWER, stream=stream, limit=limit)

    def requeued(self, limit: int) -> Sequence[ParkedEvent]:
        """What an operator wants tried again."""
        with self._session.looking() as cursor:
            return dead_letters.requeued(cursor, FOLLOWER, limit)

    def next_commands(self, limit: int, *, letters: bool = False) -> Found[Owed]:
        """The first pending command of each saga, oldest first."""
        with self._session.looking() as cursor:
            return tables.next_commands(cursor, self._log.shard, limit, letters=letters)

    def settle_commands(
        self,
        epoch: str,
        *,
        accepted: Collection[int],
        refused: Mapping[int, tuple[str, str]],
        unanswered: Mapping[int, str],
        retry: Retry,
    ) -> None:
        """Note what became of commands."""
        with self._session.transaction() as cursor:
            if not tables.is_epoch(cursor, self._log.shard, epoch):
                return
            outbox.remove(cursor, list(accepted))
            tables.refuse_commands(cursor, refused)
            tables.delay_commands(cursor, unanswered, retry)

    def due_timers(self, limit: int, realms_max: int) -> Found[DueTimer]:
        """Timers whose time has come."""
        with self._session.looking() as cursor:
            return tables.due_timers(cursor, self._log.shard, limit, realms_max)

    def settle_timers(
        self, epoch: str, *, fired: Sequence[DueTimer], unanswered: Sequence[tuple[DueTimer, str]], retry: Retry
    ) -> None:
        """Note what became of timers."""
        with self._session.transaction() as cursor:
            if not tables.is_epoch(cursor, self._log.shard, epoch):
                return
            timers.remove(cursor, fired)
            tables.delay_timers(cursor, unanswered, retry)

    def close(self) -> None:
        """Give the connection back; the log's are its owner's."""
        self._session.close()


def _write(cursor: Cursor, hearing: Hearing, done: Sequence[ParkedEvent]) -> None:
    if hearing.is_empty and not done:
        return
    with cursor.connection.pipeline():  # One exchange: whoever decides waits for the lock meanwhile.
        outbox.add(cursor, hearing.commands())
        timers.clear(cursor, hearing.timers_cleared())
        timers.put(cursor, hearing.timers_set())
        tables.put_standings(cursor, hearing.standings())
        tables.put_clocks(cursor, hearing.clocks)
        for fact, reason, detail in hearing.failures:
            dead_letters.park(cursor, FOLLOWER, fact, reason=reason, attempts=1, detail=detail)
        dead_letters.park_behind(cursor, FOLLOWER, hearing.behind)
        dead_letters.remove(cursor, FOLLOWER, [(event.stream, event.version) for event in done])


def _is_a_saga_store(store: PostgresSagaStore) -> SagaStore:
    """Lets the type checker prove that it fits the port."""
    return store
