"""What is stored beside the log, on any cursor: positions, outbox, timers, parked events, API keys."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import psycopg
import pytest

from command.ports import Batch
from contracts.identity import Realm
from infra.postgres import api_keys, dead_letters, outbox, positions, timers
from infra.postgres.connections import BY_KEY, connect
from infra.postgres.log import PostgresEventLog
from infra.postgres.outbox import PendingCommand
from infra.postgres.positions import EpochChanged, PositionMoved
from infra.sagas.tables import due_timers
from sagas.timers import ClearTimer, DueTimer
from tests.contract.event_log import ACME, CLOCK, OTHER, at, everything, recorded

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FAR = datetime(2090, 1, 1, tzinfo=UTC)
BETA = Realm("beta", "a/b")


@pytest.fixture
def cursor(postgres_dsn: str) -> Iterator[psycopg.Cursor[Any]]:
    """Any cursor will do."""
    with psycopg.connect(postgres_dsn) as connection, connection.cursor() as cursor:
        yield cursor


def pending_command(nth: int, realm: Realm = ACME) -> PendingCommand:
    """What a saga wants sent."""
    payload = {"order_id": f"o{nth}", "lines": [1, None]}
    return PendingCommand(
        "checkout:o1", realm, f"saga:f{nth}:hold", "checkout.hold.v1", payload, "saga", "corr", f"f{nth}", None, nth
    )


def timer(key: str, due_at: datetime = NOON, *, realm: Realm = ACME, set_by: int = 1) -> DueTimer:
    """An expiry."""
    return DueTimer(realm, "coupon_expiry", key, due_at, set_by, {"note": key})


def stored_timers(cursor: psycopg.Cursor[Any]) -> list[tuple[Any, ...]]:
    """All of them."""
    return cursor.execute("SELECT tenant_id, key, due_at, set_by, data FROM timers ORDER BY tenant_id, key").fetchall()


def test_a_sagas_step_is_one_transaction_with_its_events(postgres_dsn: str) -> None:
    with closing(PostgresEventLog(postgres_dsn)) as log:

        def step(expected: int) -> None:
            with log.appending() as tx:
                tx.append(Batch(events=[at(1)]))
                outbox.add(tx.cursor, [pending_command(1)])
                timers.put(tx.cursor, [timer("c1")])
                positions.advance(tx.cursor, "sagas", log.epoch, expected=expected, offset=40)

        with pytest.raises(PositionMoved):
            step(expected=7)
        with log.reading() as view:
            assert (view.last_offset, outbox.count(view._cursor), stored_timers(view._cursor)) == (0, 0, [])
        step(expected=0)
        with log.reading() as view:
            assert (outbox.count(view._cursor), len(stored_timers(view._cursor))) == (1, 1)
            assert positions.read(view._cursor, "sagas", log.epoch) == 40
        assert len(everything(log)) == 1


def test_a_follower_moves_on_from_where_it_stands_only(cursor: psycopg.Cursor[Any]) -> None:
    assert positions.read(cursor, "f", "e1") == 0
    positions.advance(cursor, "f", "e1", expected=0, offset=5)
    positions.advance(cursor, "f", "e1", expected=5, offset=9)
    assert positions.read(cursor, "f", "e1") == 9
    for expected in (0, 5):
        with pytest.raises(PositionMoved, match="another process"):
            positions.advance(cursor, "f", "e1", expected=expected, offset=12)
    with pytest.raises(ValueError, match="forwards"):
        positions.advance(cursor, "f", "e1", expected=9, offset=8)
    assert positions.read(cursor, "f", "e1") == 9


def test_a_follower_of_another_epoch_is_told_what_to_do(cursor: psycopg.Cursor[Any]) -> None:
    positions.advance(cursor, "wallet", "e1", expected=0, offset=5)
    with pytest.raises(EpochChanged, match="tessera restored"):
        positions.read(cursor, "wallet", "e2")
    with pytest.raises(EpochChanged, match="restored"):
        positions.advance(cursor, "wallet", "e2", expected=5, offset=6)
    positions.reset(cursor, "wallet", "e2", 3)
    assert positions.read(cursor, "wallet", "e2") == 3
    assert [(one.follower, one.epoch, one.offset) for one in positions.every(cursor)] == [("wallet", "e2", 3)]


def test_pending_commands_keep_their_order_and_are_queued_once(cursor: psycopg.Cursor[Any]) -> None:
    commands = [pending_command(nth) for nth in (2, 1)]
    outbox.add(cursor, commands)
    outbox.add(cursor, [*commands, pending_command(1, BETA)])
    outbox.add(cursor, [])
    rows = cursor.execute(
        "SELECT tenant_id, command_id, payload, causation_id, traceparent, created_offset FROM saga_outbox ORDER BY id"
    ).fetchall()
    assert [(tenant, command_id) for tenant, command_id, *_ in rows] == [
        ("acme", "saga:f2:hold"), ("acme", "saga:f1:hold"), ("beta", "saga:f1:hold"),
    ]  # fmt: skip
    assert rows[0][2:] == ({"order_id": "o2", "lines": [1, None]}, "f2", None, 2)


def test_an_answered_command_leaves_the_outbox(cursor: psycopg.Cursor[Any]) -> None:
    outbox.add(cursor, [pending_command(1), pending_command(2)])
    (first, _) = (number for (number,) in cursor.execute("SELECT id FROM saga_outbox ORDER BY id").fetchall())
    outbox.remove(cursor, [first])
    assert outbox.count(cursor) == 1


def test_a_timer_that_is_set_again_replaces_the_former(cursor: psycopg.Cursor[Any]) -> None:
    later = NOON + timedelta(hours=1)
    timers.put(cursor, [timer("c1"), timer("c2"), timer("c1", later, set_by=2)])
    assert stored_timers(cursor) == [
        ("acme", "c1", later, 2, {"note": "c1"}), ("acme", "c2", NOON, 1, {"note": "c2"}),
    ]  # fmt: skip
    cursor.execute("UPDATE timers SET attempts = 3, retry_at = clock_timestamp(), last_error = 'busy'")
    timers.put(cursor, [timer("c2", later, set_by=5)])
    assert cursor.execute(
        "SELECT due_at, set_by, attempts, retry_at, last_error FROM timers WHERE key = 'c2'"
    ).fetchone() == (later, 5, 0, None, None)


def test_timers_are_cleared_in_their_own_realm_only(cursor: psycopg.Cursor[Any]) -> None:
    timers.put(cursor, [timer("c1"), timer("c2"), timer("c1", realm=BETA)])
    timers.clear(cursor, [(ACME, ClearTimer("coupon_expiry", "c1")), (ACME, ClearTimer("template_open", "c2"))])
    assert [(tenant, key) for tenant, key, *_ in stored_timers(cursor)] == [("acme", "c2"), ("beta", "c1")]


def test_clearing_timers_looks_at_those_only_also_after_the_table_has_grown(postgres_dsn: str) -> None:
    with connect(postgres_dsn, name="test", settings=BY_KEY) as connection, connection.cursor() as cursor:
        for _ in range(10):  # A plan made now would suit an empty table.
            timers.clear(cursor, [(ACME, ClearTimer("coupon_expiry", "none"))])
        timers.put(cursor, [timer(f"c{nth}", NOON + timedelta(seconds=nth)) for nth in range(3_000)])
        connection.commit()
        timers.clear(cursor, [(ACME, ClearTimer("coupon_expiry", f"c{nth}")) for nth in range(300)])
        (looked_at,) = cursor.execute(_LOOKED_AT).fetchone() or (0,)
        assert len(stored_timers(cursor)) == 2_700
        assert looked_at <= 600


def test_looking_for_what_is_due_reads_no_more_than_that(postgres_dsn: str) -> None:
    with connect(postgres_dsn, name="test", settings=BY_KEY) as connection, connection.cursor() as cursor:
        for _ in range(10):
            assert due_timers(cursor, 0, 10, 10).items == []
        timers.put(cursor, [timer(f"c{nth}", FAR + timedelta(seconds=nth)) for nth in range(3_000)])
        timers.put(cursor, [timer("due"), timer("due too", realm=BETA)])
        connection.commit()
        assert {(due.realm, due.key) for due in due_timers(cursor, 0, 10, 10).items} == {
            (ACME, "due"),
            (BETA, "due too"),
        }
        (looked_at,) = cursor.execute(_LOOKED_AT).fetchone() or (0,)
        assert looked_at <= 30


_LOOKED_AT = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'timers'"


def test_a_fired_timer_that_was_set_anew_meanwhile_stays(cursor: psycopg.Cursor[Any]) -> None:
    fired = [timer("c1"), timer("c2")]
    timers.put(cursor, fired)
    timers.put(cursor, [replace(fired[0], set_by=9)])
    timers.remove(cursor, fired)
    assert [(key, set_by) for _, key, _, set_by, _ in stored_timers(cursor)] == [("c1", 9)]


def test_later_events_of_a_stream_park_behind_a_parked_one(cursor: psycopg.Cursor[Any]) -> None:
    first, second, third = recorded([3, 5, 8], at(1), at(2), at(3))
    dead_letters.park(cursor, "wallet", first, reason="bad \x00 byte", attempts=3)
    assert dead_letters.parked_streams(cursor, "wallet") == {CLOCK}
    assert dead_letters.parked_streams(cursor, "coupon") == frozenset()
    dead_letters.park_behind(cursor, "wallet", [second, third])
    dead_letters.park_behind(cursor, "wallet", [second])
    found = dead_letters.find(cursor, follower="wallet", limit=10)
    assert [(one.version, one.offset, one.attempts, one.reason) for one in found] == [
        (1, 3, 3, "bad \\x00 byte"), (2, 5, 0, dead_letters.BEHIND), (3, 8, 0, dead_letters.BEHIND),
    ]  # fmt: skip
    assert dead_letters.count(cursor) == {"wallet": 3}


def test_a_requeued_stream_comes_back_in_order_until_one_fails_again(cursor: psycopg.Cursor[Any]) -> None:
    first, second, third = recorded([3, 5, 8], at(1), at(2), at(3))
    dead_letters.park(cursor, "wallet", first, reason="poison", attempts=3)
    dead_letters.park_behind(cursor, "wallet", [second, third])
    dead_letters.park(cursor, "wallet", recorded([4], at(1, stream=OTHER))[0], reason="poison", attempts=3)
    assert dead_letters.requeued(cursor, "wallet", 10) == []
    assert dead_letters.requeue(cursor, "wallet", CLOCK) == 3
    again = dead_letters.requeued(cursor, "wallet", 10)
    assert [one.offset for one in again] == [3, 5, 8]
    dead_letters.remove(cursor, "wallet", [(CLOCK, 1)])
    dead_letters.park(cursor, "wallet", second, reason="still poison", attempts=1)
    assert dead_letters.requeued(cursor, "wallet", 10) == []
    found = dead_letters.find(cursor, stream=CLOCK, limit=10)
    assert [(one.version, one.reason, one.attempts) for one in found] == [
        (2, "still poison", 1), (3, dead_letters.BEHIND, 0),
    ]  # fmt: skip
    assert dead_letters.requeue(cursor, "wallet") == 3


def test_a_key_is_found_by_its_prefix_and_its_secret_is_not_stored(cursor: psycopg.Cursor[Any]) -> None:
    until = NOON + timedelta(days=1)
    token = api_keys.create(cursor, BETA, role="operator", scopes=["b", "a"], label="ci", expires_at=until)
    mark, prefix, secret = token.split("_")
    key = api_keys.find(cursor, prefix)
    assert key is not None
    assert (mark, key.realm, key.role, key.scopes, key.label) == ("tsk", BETA, "operator", frozenset({"a", "b"}), "ci")
    assert (key.expires_at, key.revoked_at, key.actor) == (until, None, f"key:{prefix}")
    assert key.secret_sha256 == sha256(secret.encode()).digest()
    assert len(bytes.fromhex(secret)) * 8 >= 128
    row = str(cursor.execute("SELECT to_jsonb(api_keys) FROM api_keys").fetchone())
    assert secret not in row
    assert api_keys.find(cursor, "0" * 12) is None


def test_a_key_is_revoked_once_and_for_good(cursor: psycopg.Cursor[Any]) -> None:
    prefix = api_keys.create(cursor, ACME, role="merchant", scopes=[], label="x").split("_")[1]
    assert api_keys.revoke(cursor, prefix)
    key = api_keys.find(cursor, prefix)
    assert key is not None
    assert key.revoked_at is not None
    assert not api_keys.revoke(cursor, prefix)
    assert not api_keys.revoke(cursor, "unknown")


def test_keys_are_listed_by_realm(cursor: psycopg.Cursor[Any]) -> None:
    for realm in (ACME, BETA, ACME):
        api_keys.create(cursor, realm, role="merchant", scopes=[], label=realm.tenant_id)
    assert [key.label for key in api_keys.every(cursor, ACME)] == ["acme", "acme"]
    assert len(api_keys.every(cursor)) == 3
    assert len(api_keys.every(cursor, limit=2)) == 2
