"""Keeps the business clock in step with the sagas and timers that live by it.

An import sends a year in half a minute. Were the clock to run ahead, an order of January would be decided in March: its
hold would lapse before its payment was heard, and its checkout would be reported in the wrong month. So before the
clock moves into another day, whatever the past day set off is worked off. Nothing depends on it but these times: where
no saga worker runs, or it is slow, the import goes on.
"""

from time import monotonic, sleep
from typing import Any, Final

import psycopg

from contracts.identity import Realm
from infra.postgres.connections import translated

POLL_SECONDS: Final = 0.005
POLL_SECONDS_MAX: Final = 0.1  # Looking costs the very cores that are waited for.
# A worker that does not move for so long does not run: the import goes on until it moves again.
STANDSTILL_SECONDS: Final = 10.0
# One day's backlog may take longer than anybody wants to wait; then the clock goes on.
WAIT_SECONDS_MAX: Final = 60.0

# What sagas noted of what they heard sets nothing off: hearing that, too, is not waited for.
_STANDING: Final = """
SELECT coalesce((SELECT max(log_offset) FROM follower_positions WHERE follower = 'sagas'), -1) AS heard,
       coalesce((SELECT max(notification_id) FROM stored_events WHERE topic != 'saga.heard.v1'), 0) AS head,
       EXISTS (
           SELECT FROM saga_outbox WHERE tenant_id = %(tenant_id)s AND app_id = %(app_id)s AND refused_code IS NULL
       ) AS owes,
       EXISTS (
           SELECT FROM timers JOIN realm_clocks USING (tenant_id, app_id)
           WHERE tenant_id = %(tenant_id)s AND app_id = %(app_id)s AND due_at <= shows
       ) AS due
"""


class Pace:
    """Waits for one realm's sagas and timers. For one thread."""

    def __init__(self, connection: psycopg.Connection[Any], realm: Realm) -> None:
        self._connection = connection
        self._realm = {"tenant_id": realm.tenant_id, "app_id": realm.app_id}
        self._stood_still_at: int | None = None  # Where the sagas were when nothing moved any more.

    def wait(self) -> None:
        """Return when everything stored so far was heard and nothing is owed or due. Raises StoreUnavailable.

        Bounded: after :data:`WAIT_SECONDS_MAX`, or once nothing moved for :data:`STANDSTILL_SECONDS`; then it does not
        wait again until the sagas have moved.
        """
        deadline = monotonic() + WAIT_SECONDS_MAX
        moved_at, before, poll_seconds = monotonic(), None, POLL_SECONDS
        while monotonic() < deadline:
            standing = self._standing()
            heard, head, owes, due = standing
            if heard == self._stood_still_at or (heard >= head and not owes and not due):
                return
            self._stood_still_at = None
            if standing != before:
                moved_at, before = monotonic(), standing
            elif monotonic() - moved_at > STANDSTILL_SECONDS:
                self._stood_still_at = heard
                return
            sleep(poll_seconds)
            poll_seconds = min(POLL_SECONDS_MAX, poll_seconds * 1.5)

    def _standing(self) -> tuple[int, int, bool, bool]:
        with translated():
            row = self._connection.execute(_STANDING, self._realm).fetchone()
        assert row is not None
        heard, head, owes, due = row
        return heard, head, owes, due
