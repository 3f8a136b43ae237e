"""Poison in a batch, clocks that step back, a queue that is full, a stop with a hundred thousand commands in it."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from command.engine import Busy, Engine, EngineSettings, EngineStopped, HandlerFailed, NobodyWatches
from command.handlers import HANDLERS
from command.handlers.handler import Handlers
from command.ports import StoreUnavailable
from command.unit_of_work import UnitOfWork
from contracts.access import ROLES
from contracts.commands import ClaimCoupon, NoteOrder
from contracts.envelope import Answer, CommandEnvelope
from infra.bootstrap import stores
from infra.bootstrap.serving import http_application
from infra.bootstrap.stores import create_key
from infra.postgres.log import PostgresEventLog
from infra.postgres.recorder import APPEND_LOCK_CLASS
from infra.processes import wait_until
from tests.audit import Acknowledged, audit, violations
from tests.builders import REALM, claim
from tests.faults.conftest import WAITING_FOR_THE_LOCK, engine_on, kind_of_engine
from tests.faults.fleet import wait_for
from tests.faults.shop import publish, sent, sold
from tests.integration.http.conftest import read_side_in_memory, serving, settings_for
from tests.loops import engine_for_a_loop, on_a_loop

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("either_kind")]

BATCH = 300
POISONED = 137
LONG = os.environ.get("TESSERA_TEST_EFFORT") == "long"
QUEUED = 100_000
STOP_SECONDS = 1.0
ALWAYS_LOOKS = EngineSettings(look_every_seconds=0.0)


def claims(users: int) -> list[CommandEnvelope]:
    """Claims by as many users."""
    return [sent(f"claim-{number}", claim(f"u{number}", "wide")) for number in range(users)]


def told(pairs: dict[str, Answer]) -> list[Acknowledged]:
    """As the audit wants them."""
    return [Acknowledged.of(REALM, command_id, answer) for command_id, answer in pairs.items()]


# Poison.


def breaks(_answer: dict[str, Any]) -> dict[str, Any]:
    """A defect."""
    raise ZeroDivisionError


def cannot_be_stored(answer: dict[str, Any]) -> dict[str, Any]:
    """A defect that shows only when its batch is stored."""
    return {**answer, "note": "\0"}


@pytest.mark.parametrize("defect", [breaks, cannot_be_stored])
def test_a_poisoned_command_fails_alone_and_the_rest_of_its_batch_is_stored(shop: str, defect: Any) -> None:
    sound, poisoned = HANDLERS[ClaimCoupon], f"u{POISONED}"
    rush = sound.rush
    assert rush is not None

    def handle(uow: UnitOfWork, command: ClaimCoupon) -> dict[str, Any]:
        answer = sound.handle(uow, command)
        return defect(answer) if command.user_id == poisoned else answer

    def together(uow: UnitOfWork, commands: Sequence[ClaimCoupon]) -> list[dict[str, Any]] | None:
        answers = rush.handle(uow, commands)
        if answers is None:
            return None
        pairs = zip(commands, answers, strict=True)
        return [defect(answer) if command.user_id == poisoned else answer for command, answer in pairs]

    batch = claims(BATCH)
    handlers: Handlers = {**HANDLERS, ClaimCoupon: replace(sound, handle=handle, rush=replace(rush, handle=together))}
    with engine_on(shop, handlers=handlers) as engine:
        futures = engine.submit_many(batch)
        with pytest.raises(HandlerFailed):
            futures[POISONED].result(60)
        answers = {
            each.command_id: future.result(60)
            for number, (each, future) in enumerate(zip(batch, futures, strict=True))
            if number != POISONED
        }
    assert all(answer.accepted for answer in answers.values())
    assert sold(shop, "wide") == BATCH - 1
    assert audit(shop, told(answers)) == []
    with engine_on(shop) as mended:  # A defect is not an answer: the same id works once it is gone.
        assert mended.execute(batch[POISONED]).accepted
    assert violations(shop) == []


# Clocks.


@contextmanager
def set_clock(dsn: str) -> Iterator[Any]:
    """A database whose clock can be set; yields (a DSN under which it shows, how to set it off by so much)."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA clocks")
        admin.execute("CREATE TABLE clocks.off (by interval)")
        admin.execute("INSERT INTO clocks.off VALUES ('0')")
        for clock in ("clock_timestamp", "now", "statement_timestamp", "transaction_timestamp"):
            admin.execute(
                f"CREATE FUNCTION clocks.{clock}() RETURNS timestamptz LANGUAGE sql VOLATILE"
                f" RETURN pg_catalog.{clock}() + (SELECT by FROM clocks.off)".encode()
            )

        def step(by: timedelta) -> None:
            admin.execute("UPDATE clocks.off SET by = %s", (by,))

        yield make_conninfo(dsn, options="-c search_path=clocks,pg_catalog,public"), step


def test_a_clock_that_steps_back_does_not_take_the_store_with_it(shop: str) -> None:
    hour = timedelta(hours=1)
    with (
        set_clock(shop) as (dsn, step),
        engine_on(dsn, settings=ALWAYS_LOOKS) as engine,
        engine_on(dsn, settings=ALWAYS_LOOKS) as other,
    ):
        publish(engine, "brief", claim_until=datetime.now(UTC) + hour)
        assert engine.execute(sent("1", claim("early", "brief"))).accepted
        step(2 * hour)
        assert engine.execute(sent("2", claim("late", "brief"))).code == "ended"
        assert engine.execute(sent("3", claim("late", "wide"))).accepted
        step(-2 * hour)
        assert engine.execute(sent("4", claim("again", "brief"))).code == "ended"
        assert other.execute(sent("5", claim("again", "brief"))).code == "ended"
        assert other.execute(sent("6", claim("again", "wide"))).accepted
    assert times_that_go_back(shop) == []
    assert violations(shop) == []


def test_a_clock_that_was_set_is_noticed_by_engines_that_do_not_ask_it_each_time(shop: str) -> None:
    hour, numbers = timedelta(hours=1), count()

    def ends(engine: Engine) -> bool:
        number = next(numbers)
        return engine.execute(sent(f"{number}", claim(f"u{number}", "brief"))).code == "ended"

    with set_clock(shop) as (dsn, step), engine_on(dsn) as engine, engine_on(dsn) as other:
        publish(engine, "brief", claim_until=datetime.now(UTC) + hour)
        for each in (engine, other):
            assert not ends(each)
        step(2 * hour)
        assert wait_until(lambda: ends(engine) and ends(other), timeout_seconds=30)
        step(-2 * hour)

        def stands_still() -> bool:
            before = latest_time(shop)
            return ends(engine) and ends(other) and latest_time(shop) == before

        assert wait_until(stands_still, timeout_seconds=30)
        assert all(stands_still() for _ in range(20))  # And does not run on, whoever was the last to record anything.
    assert times_that_go_back(shop) == []
    assert violations(shop) == []


def latest_time(dsn: str) -> Any:
    """When the last event was recorded."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT max(convert_from(state, 'UTF8')::jsonb ->> 'rec') FROM stored_events"
        ).fetchone()
    return row and row[0]


def test_engines_on_machines_with_another_clock_go_by_the_clock_of_the_store(shop: str) -> None:
    days, here = timedelta(days=1), datetime.now(UTC)
    with (
        set_clock(shop) as (dsn, step),
        engine_on(dsn, settings=ALWAYS_LOOKS) as engine,
        engine_on(dsn, settings=ALWAYS_LOOKS) as other,
    ):
        publish(engine, "over", claim_until=here + days)
        publish(engine, "open", claim_from=here + 9 * days)
        step(10 * days)
        for each in (engine, other):
            user = f"u-{id(each)}"
            assert each.execute(sent(f"open-{user}", claim(user, "open"))).accepted
            assert each.execute(sent(f"over-{user}", claim(user, "over"))).code == "ended"
    with psycopg.connect(shop) as connection:
        row = connection.execute(
            "SELECT min(least(occurred_at, recorded_at)) FROM events WHERE type = 'coupon.claimed.v1'"
        ).fetchone()
    assert row is not None
    assert row[0] > here + 9 * days
    assert times_that_go_back(shop) == []


def test_whoever_waited_for_the_lock_goes_by_the_time_at_which_it_came(shop: str) -> None:
    hour = timedelta(hours=1)
    with set_clock(shop) as (dsn, step), engine_on(dsn) as engine, psycopg.connect(shop, autocommit=True) as admin:
        publish(engine, "brief", claim_until=datetime.now(UTC) + hour)
        with engine_on(dsn) as other:  # Its first batch is decided under the lock.
            admin.execute("SELECT pg_advisory_lock(%s, 0)", (APPEND_LOCK_CLASS,))
            waiting = other.submit(sent("late", claim("late", "brief")))
            wait_for(lambda: admin.execute(WAITING_FOR_THE_LOCK).fetchone() == (1,), "it to wait for the lock")
            step(2 * hour)
            admin.execute("SELECT pg_advisory_unlock(%s, 0)", (APPEND_LOCK_CLASS,))
            assert waiting.result(30).code == "ended"


def times_that_go_back(dsn: str) -> list[Any]:
    """Offsets of events that were recorded before an earlier one."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            'SELECT "offset" FROM (SELECT "offset", recorded_at, lag(recorded_at) OVER (ORDER BY "offset") AS earlier'
            " FROM events) AS each WHERE recorded_at < earlier"
        ).fetchall()


# Queues.


def test_a_stop_with_a_full_queue_answers_everybody_or_says_that_nothing_was_stored(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "ENGINE_STOP_SECONDS", STOP_SECONDS)  # For engines on loops.
    on_loop = kind_of_engine.get() == "loop"
    queued = [sent(f"note-{number}", NoteOrder(order_id=f"o{number}", status="shipped")) for number in range(QUEUED)]
    settings = EngineSettings(queue_commands_max=QUEUED)
    with closing(PostgresEventLog(shop)) as log:
        engine = engine_for_a_loop(log, HANDLERS, settings) if on_loop else Engine(log, HANDLERS, settings)
        futures = engine.submit_many(queued)  # Nothing is taken yet: all of them wait when it is asked to stop.
        with pytest.raises(Busy):
            engine.submit(queued[0])
        if on_loop:
            with on_a_loop(engine):
                pass
        else:
            engine.start()
            engine.stop(timeout_seconds=STOP_SECONDS)
        outcomes = [future.exception(30) or future.result() for future in futures]
    kinds = Counter(type(outcome) for outcome in outcomes)
    # On a loop an engine is cancelled when its time is up: of the batches on their way nobody knows.
    assert {Answer, EngineStopped} <= set(kinds) <= {Answer, EngineStopped, StoreUnavailable}, kinds
    unknown = kinds[StoreUnavailable]
    assert unknown <= (3 * settings.batch_commands_max if on_loop else 0)
    answered = {each.command_id: o for each, o in zip(queued, outcomes, strict=True) if isinstance(o, Answer)}
    assert audit(shop, told(answered)) == []
    with psycopg.connect(shop) as connection:
        logged = connection.execute("SELECT count(*) FROM command_log WHERE starts_with(command_id, 'note-')")
        (stored,) = logged.fetchone() or (0,)
    assert kinds[Answer] <= stored <= kinds[Answer] + unknown, "somebody was told of a stop, but it was stored"
    retried = queued if LONG else queued[max(0, kinds[Answer] - 1_000) :][: 2_000 + unknown]
    with engine_on(shop, settings=settings) as another:
        again = {each.command_id: f.result(120) for each, f in zip(retried, another.submit_many(retried), strict=True)}
    assert all(answer.accepted for answer in again.values())
    assert {command_id for command_id, answer in again.items() if answer.replayed} >= again.keys() & answered.keys()
    assert sum(answer.replayed for answer in again.values()) <= len(again.keys() & answered.keys()) + unknown
    assert audit(shop, [*told(answered), *told(again)]) == []
    assert violations(shop) == []


CONTENT_BYTES = len(claims(1)[0].content())


@pytest.mark.parametrize(
    ("bounds", "largest"),
    [(EngineSettings(batch_commands_max=7), 7), (EngineSettings(batch_bytes_max=3 * CONTENT_BYTES), 3)],
    ids=["commands", "bytes"],
)
def test_a_batch_keeps_to_its_bounds_however_many_wait(shop: str, bounds: EngineSettings, largest: int) -> None:
    class Batches(NobodyWatches):
        """Remembers how large they were."""

        def __init__(self) -> None:
            self.sizes: list[int] = []

        def batch_committed(
            self, tickets: int, events: int, outcomes: Mapping[tuple[str, str], int], seconds: float
        ) -> None:
            self.sizes.append(tickets)

    batches, waiting = Batches(), [sent(f"same-{number}", claim("u0", "wide")) for number in range(60)]
    with engine_on(shop, settings=bounds, observer=batches) as engine:
        for future in engine.submit_many(waiting):
            future.result(30)
    assert max(batches.sizes) == largest
    assert sum(batches.sizes) == len(waiting)


async def test_callers_of_a_full_queue_are_told_when_to_come_back_and_then_are_served(shop: str) -> None:
    settings = settings_for(shop).model_copy(update={"queue_commands_max": 5})
    token = create_key(settings, REALM, role="admin", scopes=ROLES["admin"], label="test")
    with (
        http_application(settings, read_side=read_side_in_memory()) as app,
        serving(app) as url,
        psycopg.connect(shop, autocommit=True) as admin,
    ):
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:

            async def post(user: int) -> httpx.Response:
                body, key = {"user_id": f"u{user}"}, {"Idempotency-Key": f"key-{user}"}
                return await client.post("/v1/templates/wide/claims", json=body, headers=key)

            admin.execute("SELECT pg_advisory_lock(%s, 0)", (APPEND_LOCK_CLASS,))
            requests = [asyncio.create_task(post(user)) for user in range(40)]
            await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)  # Nobody is served yet: it is a refusal.
            admin.execute("SELECT pg_advisory_unlock(%s, 0)", (APPEND_LOCK_CLASS,))
            first = dict(enumerate(await asyncio.gather(*requests)))
            busy = {user: response for user, response in first.items() if response.status_code != 201}
            with psycopg.connect(shop) as connection:
                rows = connection.execute("SELECT command_id FROM command_log WHERE starts_with(command_id, 'key-')")
                assert {row[0] for row in rows} == {f"key-{user}" for user in first.keys() - busy.keys()}
            second = [await post(user) for user in busy]
    assert 0 < len(busy) < len(first)
    for response in busy.values():
        assert (response.status_code, response.json()["code"]) == (503, "busy")
        assert int(response.headers["retry-after"]) > 0
    assert {response.status_code for response in second} == {201}
    assert sold(shop, "wide") == len(first)
