"""How far every follower has come, looked at all the time and past the proxies, and when it came there."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from infra import operations
from infra.clickhouse.facts import FactsStore
from infra.postgres import positions
from infra.postgres.connections import connect
from infra.redis.connection import connect as connect_redis
from infra.redis.models import ModelStore
from infra.settings import Settings
from projections.catalog import READ_MODELS

SAGAS, RELAY, MODELS, FACTS = operations.SAGAS, operations.RELAY, "models", "facts"
LOOK_SECONDS: Final = 0.2
FACTS_LOOK_SECONDS: Final = 0.5  # ClickHouse takes its time for so small a question.
JOIN_SECONDS_MAX: Final = 60.0
STEPS_KEPT: Final = 20_000

Look = Callable[[], Mapping[str, int]]


@dataclass
class Watch:
    """Follower → offset, over time. One thread for each store: one that hangs does not hide the others.

    What is away has come nowhere further; what was lost with a store is behind again.
    """

    settings: Settings
    followers: Collection[str]
    _steps: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["Watch"]:
        """Look until the end of the block."""
        looks = (
            (self._into_postgres, LOOK_SECONDS),
            (self._into_redis, LOOK_SECONDS),
            (self._into_clickhouse, FACTS_LOOK_SECONDS),
        )
        threads = [threading.Thread(target=self._keep_looking, args=look, daemon=True) for look in looks]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join(JOIN_SECONDS_MAX)

    def offsets(self) -> dict[str, int]:
        """Where each follower stands."""
        with self._changed:
            return {name: steps[-1][1] if (steps := self._steps.get(name)) else 0 for name in self.followers}

    def reached(self, offset: int, followers: Collection[str]) -> float | None:
        """When the last of them came to an offset (``monotonic``); None while one has not."""
        with self._changed:
            return self._reached(offset, followers)

    def wait(self, offset: int, followers: Collection[str], timeout_seconds: float) -> float | None:
        """When the last of them came to an offset; None if it does not in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._reached(offset, followers) is not None, timeout_seconds)
            return self._reached(offset, followers)

    def _reached(self, offset: int, followers: Collection[str]) -> float | None:
        times = [
            next((at for at, step in self._steps.get(name, ()) if step >= offset), None)
            for name in followers
            if name in self.followers
        ]
        known = [at for at in times if at is not None]
        return None if len(known) < len(times) else max(known, default=0.0)

    def _keep_looking(self, opened: Callable[[], Any], pause_seconds: float) -> None:
        while not self._stopping.is_set():
            # Whatever is away now is asked again, over new connections.
            with suppress(Exception), opened() as look:
                while not self._stopping.wait(pause_seconds):
                    self._note(look())
            self._stopping.wait(LOOK_SECONDS)

    def _note(self, found: Mapping[str, int]) -> None:
        now = monotonic()
        with self._changed:
            for name, offset in found.items():
                steps = self._steps.setdefault(name, deque(maxlen=STEPS_KEPT))
                if not steps or steps[-1][1] != offset:
                    steps.append((now, offset))
            self._changed.notify_all()

    @contextmanager
    def _into_postgres(self) -> Iterator[Look]:
        with connect(self.settings.postgres_dsn, name="watch", autocommit=True) as connection:

            def look() -> Mapping[str, int]:
                with connection.cursor() as cursor:
                    return {each.follower: each.offset for each in positions.every(cursor)}

            yield look

    @contextmanager
    def _into_redis(self) -> Iterator[Look]:
        with closing(connect_redis(self.settings.redis_url)) as client:
            stores = [ModelStore(client, model, self.settings.shard) for model in READ_MODELS.values()]
            yield lambda: {MODELS: min(map(_offset, stores))}

    @contextmanager
    def _into_clickhouse(self) -> Iterator[Look]:
        with closing(FactsStore(self.settings.facts_url)) as facts:
            yield lambda: {FACTS: 0 if (found := facts.checkpoint()) is None else found.position.offset}


def _offset(store: ModelStore) -> int:
    control = store.control()
    at = None if control.active is None else control.checkpoints.get(control.active)
    return 0 if at is None else at.offset
