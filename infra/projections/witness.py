"""Which event the read models took in last, noted in Redis beside them."""

import orjson
import redis

from contracts.position import Position
from contracts.read_models import model_at
from infra.projections.ports import Mark
from infra.redis.connection import translated


class RedisWitness:
    """One key of one shard. Implements :class:`infra.projections.ports.Witness`. Raises RedisUnavailable."""

    def __init__(self, client: "redis.Redis", shard: int) -> None:
        self._client = client
        self._key = f"{model_at('log', shard)}:mark"

    def last(self) -> Mark | None:
        """What was noted last; None when nothing was, or Redis was flushed: models begin anew then."""
        with translated():
            found = self._client.get(self._key)
        if found is None:
            return None
        token, event = orjson.loads(found)
        return Mark(Position.parse(token), event)

    def note(self, mark: Mark) -> None:
        """Remember this from now on."""
        with translated():
            self._client.set(self._key, orjson.dumps([mark.position.token(), mark.event]))
