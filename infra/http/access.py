"""API keys at the door: from an Authorization header to a caller, with a short memory so that revoking acts quickly."""

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Set
from concurrent.futures import Executor
from datetime import UTC, datetime
from time import monotonic
from typing import Final, NamedTuple, Protocol

from contracts.access import Caller
from contracts.identity import Realm
from infra.entry.problems import Problem

TOKEN_LENGTH_MAX: Final = 200
# How long a revoked key may still be honoured by a process that has just seen it.
MEMORY_SECONDS: Final = 3.0
KEYS_REMEMBERED_MAX: Final = 10_000
LOOKUP_TIMEOUT_SECONDS: Final = 5.0


class StoredKey(Protocol):
    """An API key as it is stored: the secret only as its SHA-256."""

    @property
    def realm(self) -> Realm:
        """The tenant and app it is confined to."""
        ...

    @property
    def actor(self) -> str:
        """Who acts with it: what events remember."""
        ...

    @property
    def secret_sha256(self) -> bytes:
        """The digest of its secret part."""
        ...

    @property
    def scopes(self) -> Set[str]:
        """What it may do."""
        ...

    @property
    def expires_at(self) -> datetime | None:
        """From when on it is refused."""
        ...

    @property
    def revoked_at(self) -> datetime | None:
        """Since when it is refused."""
        ...


class _Remembered(NamedTuple):
    key: StoredKey | None
    until: float


class _Admitted(NamedTuple):
    caller: Caller
    until: float


class KeyRing:
    """Knows whom a key stands for. ``find`` looks a prefix up in the store; it blocks, so it runs on ``blocking``.

    What was found, or not found, is remembered for ``memory_seconds``: the bound within which a revocation acts.
    """

    def __init__(
        self,
        find: Callable[[str], StoredKey | None],
        *,
        memory_seconds: float = MEMORY_SECONDS,
        blocking: Executor | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._find = find
        self._memory_seconds = memory_seconds
        self._blocking = blocking
        self._now = now
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._admitted: OrderedDict[bytes, _Admitted] = OrderedDict()  # By the SHA-256 of the whole header.
        self._lookups: dict[str, asyncio.Future[StoredKey | None]] = {}

    def known(self, authorization: bytes | None) -> Caller | None:
        """Whoever this very header was checked for a moment ago; None when it has to be checked (again)."""
        if authorization is None:
            return None
        admitted = self._admitted.get(hashlib.sha256(authorization).digest())
        return admitted.caller if admitted is not None and admitted.until > monotonic() else None

    async def caller(self, authorization: bytes | None) -> Caller:
        """Who is calling. Raises Problem (401) for a missing, unknown, wrong, expired or revoked key."""
        prefix, secret = _token_parts(authorization)
        remembered = self._remembered.get(prefix)
        if remembered is not None and remembered.until > monotonic():
            key = remembered.key
        else:
            key = await self._look_up(prefix)
        # Compared even when there is no such key, so that the time taken does not say which prefixes exist.
        expected = key.secret_sha256 if key is not None else bytes(hashlib.sha256().digest_size)
        matches = hmac.compare_digest(hashlib.sha256(secret).digest(), expected)
        if key is None or not matches:
            raise Problem("unauthenticated", "the API key is not known")
        if key.revoked_at is not None:
            raise Problem("key_revoked", "the API key was revoked")
        if key.expires_at is not None and key.expires_at <= self._now():
            raise Problem("key_expired", "the API key has expired")
        caller = Caller(key.realm, key.actor, key.scopes)
        self._admit(caller, prefix, authorization, key.expires_at)
        return caller

    def _admit(self, caller: Caller, prefix: str, authorization: bytes | None, expires_at: datetime | None) -> None:
        """Remember that this header was right: until the key is looked up again, or expires."""
        remembered = self._remembered.get(prefix)
        if remembered is None or authorization is None:
            return
        until = remembered.until
        if expires_at is not None:
            until = min(until, monotonic() + (expires_at - self._now()).total_seconds())
        digest = hashlib.sha256(authorization).digest()
        self._admitted[digest] = _Admitted(caller, until)
        self._admitted.move_to_end(digest)
        while len(self._admitted) > KEYS_REMEMBERED_MAX:
            self._admitted.popitem(last=False)

    async def _look_up(self, prefix: str) -> StoredKey | None:
        """Ask the store once, however many requests with this prefix wait for it."""
        if (lookup := self._lookups.get(prefix)) is None:
            lookup = asyncio.get_running_loop().run_in_executor(self._blocking, self._find, prefix)
            self._lookups[prefix] = lookup
            lookup.add_done_callback(lambda done: self._remember(prefix, done))
        async with asyncio.timeout(LOOKUP_TIMEOUT_SECONDS):
            return await asyncio.shield(lookup)

    def _remember(self, prefix: str, done: "asyncio.Future[StoredKey | None]") -> None:
        del self._lookups[prefix]
        if done.cancelled() or done.exception() is not None:
            return
        self._remembered[prefix] = _Remembered(done.result(), monotonic() + self._memory_seconds)
        self._remembered.move_to_end(prefix)
        while len(self._remembered) > KEYS_REMEMBERED_MAX:
            self._remembered.popitem(last=False)


def _token_parts(authorization: bytes | None) -> tuple[str, bytes]:
    """``Bearer tsk_<prefix>_<secret>`` to prefix and secret."""
    if not authorization:
        raise Problem("unauthenticated", "an API key is needed: Authorization: Bearer tsk_…")
    scheme, _, token = authorization.partition(b" ")
    start, _, rest = token.strip().partition(b"_")
    prefix, _, secret = rest.partition(b"_")
    wellformed = scheme.lower() == b"bearer" and start == b"tsk" and prefix.isalnum() and secret
    if not wellformed or len(token) > TOKEN_LENGTH_MAX:
        raise Problem("unauthenticated", "the Authorization header must read: Bearer tsk_<prefix>_<secret>")
    return prefix.decode(), secret
