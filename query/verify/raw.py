"""The raw log as verification reads it: plain rows, none of the classes whose work is being checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

_realms: Final[dict[tuple[str, str], tuple[str, str]]] = {}


class RawEvent(NamedTuple):
    """One row of the log. ``data`` is the payload as parsed JSON."""

    offset: int
    stream: str
    version: int
    type: str
    event_id: str
    tenant_id: str
    app_id: str
    occurred_at: datetime
    recorded_at: datetime
    command_id: str
    data: Mapping[str, Any]

    @property
    def realm(self) -> tuple[str, str]:
        """Whose it says it is: one object for all of a realm's, since nearly everything is remembered by it."""
        return _realms.setdefault(realm := (self.tenant_id, self.app_id), realm)


class RawAnswer(NamedTuple):
    """One row of the command log."""

    tenant_id: str
    app_id: str
    command_id: str
    command_type: str
    content_hash: str
    status: str
    offset: int
    coupon_id: str | None  # Of a claim: what was promised.


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, the row that shows it, and what is wrong with it."""

    invariant: str  # "I1" … "I12"
    subject: str  # The stream, key or row.
    detail: str
    offset: int | None = None  # The event at which it shows, where there is one.
    shard: int | None = None  # Where it shows, of several.
