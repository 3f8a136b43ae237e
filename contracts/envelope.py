"""What travels around events and commands: who, when, why and where."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from contracts.commands.base import Command
from contracts.events.base import Event
from contracts.identity import Realm, StreamName, parse_stream
from contracts.position import Position


class CommandEnvelope(NamedTuple):
    """One command on its way in. ``command_id`` is unique within the realm; ``actor`` is a key or principal.

    ``asked_in``: the epoch of the log that its asker drew its conclusions from, if it drew any: a saga's hold follows
    from a fact. It is not decided in another one, where that fact may be missing or be told again.
    """

    realm: Realm
    command_id: str
    command: Command
    actor: str
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None
    asked_in: str | None = None

    def described(self) -> tuple[str, str, str, str | None, str | None]:
        """What the metadata of its events says of it: actor, command, correlation, cause and trace."""
        return self.actor, self.command_id, self.correlation_id, self.causation_id, self.traceparent

    def content(self) -> bytes:
        """What is asked, and nothing of who asks or when."""
        return b"%s\n%s" % (self.command.type.encode(), self.command.to_json())

    def content_hash(self) -> str:
        """A digest of what is asked: the same id with another digest is refused."""
        return digest_of(self.content())


def digest_of(content: bytes) -> str:
    """The digest of a command's content, as the command log keeps it."""
    return hashlib.sha256(content).hexdigest()


class Answer(NamedTuple):
    """The final answer to a command. ``code`` is ``ok`` or a refusal code; ``data`` is JSON for the caller.

    ``position`` is where the effect is in the log (for a refusal: where the log stood).
    """

    status: Literal["accepted", "refused"]
    code: str
    detail: str
    data: Mapping[str, Any]
    position: Position
    replayed: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the command took effect (now or, when replayed, the first time)."""
        return self.status == "accepted"


class Metadata(NamedTuple):
    """Everything about a stored event but its payload and its place."""

    event_id: str
    occurred_at: datetime  # Business time: windows, reports.
    recorded_at: datetime  # The store's time: as-of queries, daily close. Never earlier than an earlier event's.
    actor: str
    command_id: str
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event as every follower sees it: its place in the log and in its stream, its metadata and its payload."""

    offset: int
    stream: str
    version: int
    event: Event
    metadata: Metadata
    name: StreamName = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", parse_stream(self.stream))

    @property
    def realm(self) -> Realm:
        """The tenant and app it belongs to."""
        return self.name.realm
