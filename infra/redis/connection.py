"""How every connection to Redis is made, and what a server must be set to before it may hold read models."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 10.0
REQUIRED_POLICY = "noeviction"


class RedisUnavailable(Exception):
    """Redis cannot be reached, or cannot take writes now. Whether the last write landed is unknown; repeat it."""


class WrongEvictionPolicy(Exception):
    """The server may throw buckets away when memory runs short: half a model would be served as a whole one."""

    def __init__(self, policy: str) -> None:
        super().__init__(
            f"Redis runs with maxmemory-policy {policy}: it would drop parts of read models when memory runs short. "
            f"Set it: CONFIG SET maxmemory-policy {REQUIRED_POLICY} (and in redis.conf)"
        )
        self.policy = policy


def connect(url: str) -> "redis.Redis":
    """A client (with a pool, for any number of threads) that answers with bytes. Connects at first use.

    It does not retry by itself: whoever follows the log counts its attempts and says so.
    """
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=ANSWER_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )


def require_no_eviction(client: "redis.Redis") -> None:
    """Raise WrongEvictionPolicy unless keys stay until they are deleted. Raises RedisUnavailable."""
    with translated():
        settings = client.config_get("maxmemory-policy")
    policy = next((_text(value) for value in settings.values()), REQUIRED_POLICY)
    if policy != REQUIRED_POLICY:
        raise WrongEvictionPolicy(policy)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what says "out of reach, or too late" into RedisUnavailable; mistakes of ours stay what they are."""
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        raise RedisUnavailable(str(error) or type(error).__name__) from error
    except (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError, redis.exceptions.TryAgainError) as error:
        raise RedisUnavailable(str(error)) from error
    except redis.exceptions.ResponseError as error:
        if str(error).startswith(("MISCONF", "OOM", "LOADING", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN")):
            raise RedisUnavailable(str(error)) from error
        raise


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
