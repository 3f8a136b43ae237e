"""Which claims would be refused just now, as API processes tell each other: short-lived keys that anybody may lose."""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, Self

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from contracts.identity import Realm, escape

CONNECTIONS_MAX: Final = 4
SOCKET_TIMEOUT_SECONDS: Final = 0.25


class HintKey(NamedTuple):
    """What a hint is about: a template (no user), or one user's claims of it."""

    realm: Realm
    template_id: str
    user_id: str | None = None

    def name(self) -> str:
        """The key in Redis. The hash tag keeps all hints of a template in one slot of a cluster."""
        tag = f"hint:v1:{{{self.realm.key}/{escape(self.template_id)}}}"
        return tag if self.user_id is None else f"{tag}:{escape(self.user_id)}"


class SharedHint(NamedTuple):
    """A refusal's code, and for how much longer it is to be believed."""

    code: str
    seconds: float


class RedisHints:
    """Hints in Redis. Every method raises redis.RedisError or OSError; nothing is retried, callers do without."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client

    @classmethod
    def at(cls, url: str) -> Self:
        """Connects at first use, in whichever event loop that is."""
        return cls(
            redis.asyncio.Redis.from_url(
                url,
                max_connections=CONNECTIONS_MAX,
                socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
                socket_timeout=SOCKET_TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        )

    async def read(self, keys: Collection[HintKey]) -> Mapping[HintKey, SharedHint]:
        """The hints among these keys. How long each still holds is Redis' own word: no two clocks are compared."""
        wanted = list(keys)
        async with self._client.pipeline(transaction=False) as pipeline:
            for key in wanted:
                pipeline.get(key.name())
                pipeline.pttl(key.name())
            told = await pipeline.execute()
        return {
            key: SharedHint(code.decode("ascii", "replace"), milliseconds / 1_000)
            for key, code, milliseconds in zip(wanted, told[::2], told[1::2], strict=True)
            if isinstance(code, bytes) and milliseconds > 0  # No end: not one of ours.
        }

    async def write(self, hints: Mapping[HintKey, SharedHint], forgotten: Collection[HintKey]) -> None:
        """Tell the others, and take back what does not hold any more."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for key in forgotten:
                pipeline.delete(key.name())
            for key, hint in hints.items():
                pipeline.set(key.name(), hint.code, px=max(1, int(hint.seconds * 1_000)))
            await pipeline.execute()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
