"""The voice of the sagas: what is owed is sent until it is answered, in each saga's order, and nothing is dropped."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from command.engine import Busy, EngineStopped, HandlerFailed
from command.ports import StoreUnavailable
from command.unit_of_work import NotYet
from contracts.envelope import Answer, CommandEnvelope
from infra.postgres import outbox
from infra.postgres.connections import transaction
from infra.postgres.epoch import bump_epoch
from infra.sagas import tables
from infra.sagas.checkpoints import At
from infra.sagas.dispatcher import Dispatcher
from infra.sagas.sending import Submits
from infra.sagas.session import Session
from infra.sagas.settings import SagaSettings
from tests.engines import Corners
from tests.integration.sagas.world import PATIENT, Store, World, hear_all


@pytest.fixture
def store(corners: Corners) -> Iterator[Store]:
    """A store of one's own: what is owed by others would be sent, too."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


@dataclass
class Scripted:
    """An engine that fails first, as told for each type of command, and then does what it should."""

    engine: Submits
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    def submit_many(self, envelopes: Iterable[CommandEnvelope]) -> list[Future[Answer]]:
        return [self._submit(envelope) for envelope in envelopes]

    def _submit(self, envelope: CommandEnvelope) -> Future[Answer]:
        self.sent.append(envelope.command.type)
        if failures := self.failures.get(envelope.command.type):
            failed: Future[Answer] = Future()
            failed.set_exception(failures.pop(0))
            return failed
        (future,) = self.engine.submit_many((envelope,))
        return future


def dispatcher(world: World, engine: Submits, settings: SagaSettings = PATIENT) -> Dispatcher:
    return Dispatcher(world.store.sagas(), engine, settings)


@pytest.mark.parametrize(
    "failure", [HandlerFailed("bug"), NotYet("later"), StoreUnavailable("gone"), EngineStopped("bye")]
)
def test_a_command_without_an_answer_is_sent_again_before_any_later_one_of_its_saga(
    world: World, failure: Exception
) -> None:
    world.template().claim().place().pay()
    hear_all(world)
    assert [row["command_type"] for row in world.owed()] == ["hold_for_order", "redeem_for_order"]
    engine = Scripted(world.store.engine, {"hold_for_order": [failure, failure]})
    sender = dispatcher(world, engine)
    while sender.run_once():
        pass
    assert engine.sent == ["hold_for_order"] * 3 + ["redeem_for_order"]
    assert world.checkout() == ["ready", "completed"]
    assert world.owed() == []


def test_a_saga_that_gets_no_answer_holds_up_itself_only(world: World) -> None:
    world.template().claim("c1").claim("c2", user="bob").place("o1", "c1").place("o2", "c2", user="bob")
    hear_all(world)
    engine = Scripted(world.store.engine, {"hold_for_order": [HandlerFailed("bug")]})
    sender = dispatcher(world, engine, SagaSettings(retry_seconds_first=3_600, retry_seconds_max=3_600))
    while sender.run_once():
        pass
    assert (world.checkout("o1"), world.checkout("o2")) == ([], ["ready"])
    (owed,) = world.rows("SELECT saga_key, attempts, last_error, retry_at > now() AS waits FROM saga_outbox")
    assert owed == {"saga_key": "checkout:o1", "attempts": 1, "last_error": "HandlerFailed: bug", "waits": True}


def test_a_busy_engine_takes_nothing_and_costs_no_attempt(world: World) -> None:
    class Full:
        def submit_many(self, envelopes: Iterable[CommandEnvelope]) -> list[Future[Answer]]:
            raise Busy("full")

    world.template().claim().place()
    hear_all(world)
    with pytest.raises(Busy):
        dispatcher(world, Full()).run_once()
    assert [row["attempts"] for row in world.owed()] == [0]
    dispatcher(world, world.store.engine).run_once()
    assert world.owed() == []


def test_what_was_found_before_a_restore_is_decided_when_it_is_found_after_it(world: World) -> None:
    world.template().claim().place()
    hear_all(world)
    decided: list[list[str]] = []

    def restore(at: At) -> None:
        if at is At.COMMANDS_READ and not decided:
            bump_epoch(world.store.dsn, 0)
        if at is At.COMMANDS_SETTLED:
            decided.append(world.checkout())

    sender = Dispatcher(world.store.sagas(), world.store.engine, PATIENT, checkpoint=restore)
    sender.run_once()
    assert [(row["command_type"], row["attempts"]) for row in world.owed()] == [("hold_for_order", 0)]
    sender.run_once()
    assert decided == [[], ["ready"]]
    assert world.owed() == []


def test_what_was_answered_before_a_restore_is_asked_again_after_it(world: World) -> None:
    world.template().claim().place()
    hear_all(world)
    engine = Scripted(world.store.engine)

    def restore(at: At) -> None:
        if at is At.COMMANDS_ANSWERED and len(engine.sent) == 1:
            bump_epoch(world.store.dsn, 0)

    sender = Dispatcher(world.store.sagas(), engine, PATIENT, checkpoint=restore)
    while sender.run_once():
        pass
    assert engine.sent == ["hold_for_order"] * 2
    assert (world.checkout(), world.owed()) == (["ready"], [])


def test_a_refused_command_is_not_sent_again_and_stays_to_be_seen(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")  # Whoever configured logs before in this process may have wished for less.
    world.template().claim().place().settle()
    # An operator's mistake, or ours: a redemption for a payment that nobody made.
    world.store.connection.execute(
        "INSERT INTO saga_outbox (saga_key, tenant_id, app_id, command_id, command_type, payload, actor,"
        " correlation_id, created_offset) VALUES"
        " ('checkout:o', %s, %s, 'x', 'redeem_for_order', '{\"order_id\": \"o\", \"payment_id\": null}', 'me', 'x', 1)",
        world.realm,
    )
    world.settle()
    assert [(row["refused_code"], row["attempts"]) for row in world.owed()] == [("payment_required", 1)]
    assert "saga_command_refused" in caplog.messages
    world.pay().settle()
    assert world.step() == "completed", "what was refused does not hold up what comes after it"
    assert _backlog(world) == tables.Backlog(pending=0, stuck=0, refused=1)


def test_what_was_refused_is_asked_anew_when_an_operator_says_so(world: World) -> None:
    world.template().claim().place().settle()
    world.store.connection.execute(
        "INSERT INTO saga_outbox (saga_key, tenant_id, app_id, command_id, command_type, payload, actor,"
        " correlation_id, created_offset) VALUES"
        " ('checkout:o', %s, %s, 'x', 'redeem_for_order', '{\"order_id\": \"o\", \"payment_id\": null}', 'me', 'x', 1)",
        world.realm,
    )
    world.settle()
    assert [row["refused_code"] for row in world.owed()] == ["payment_required"]
    assert (_retry(world), _retry(world)) == ((0, 1), (0, 0))  # Asked twice.
    world.settle()
    (owed,) = world.rows("SELECT command_id, refused_code FROM saga_outbox")
    assert owed == {"command_id": "x:again", "refused_code": "payment_required"}
    world.pay().settle()
    redeemed = world.checkout().count("completed")
    assert _retry(world) == (0, 1)
    world.settle()
    assert (world.owed(), world.step(), world.double_effects()) == ([], "completed", [])
    assert world.checkout().count("completed") == redeemed == 1


def _retry(world: World) -> tuple[int, int]:
    with transaction(world.store.dsn, name="operator") as cursor:
        return outbox.retry(cursor, world.realm, "checkout:o")


def test_a_command_that_nobody_can_read_hinders_no_other(world: World) -> None:
    world.template().claim().place()
    hear_all(world)
    for name, payload in (("no_such_command", "{}"), ("hold_for_order", '{"order_id": 7, "attempt": "x"}')):
        world.store.connection.execute(
            "INSERT INTO saga_outbox (saga_key, tenant_id, app_id, command_id, command_type, payload, actor,"
            " correlation_id, created_offset) VALUES (%s, %s, %s, %s, %s, %s, 'me', 'x', 1)",
            (f"checkout:{name}", *world.realm, name, name, payload),
        )
    sender = dispatcher(world, world.store.engine, SagaSettings(retry_seconds_first=3_600, retry_seconds_max=3_600))
    while sender.run_once():
        pass
    assert world.checkout() == ["ready"]
    errors = [row["last_error"] for row in world.rows("SELECT last_error FROM saga_outbox ORDER BY id")]
    assert len(errors) == 2
    assert errors[0] == "UnknownCommandType: unknown command type 'no_such_command'"
    assert errors[1].startswith("ValidationError")


def test_what_was_tried_too_often_counts_as_stuck(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")  # Whoever configured logs before in this process may have wished for less.
    world.template().claim().place()
    hear_all(world)
    bug = HandlerFailed("bug")
    sender = dispatcher(world, Scripted(world.store.engine, {"hold_for_order": [bug] * 5}))
    for _ in range(4):
        sender.run_once()
    assert _backlog(world) == tables.Backlog(pending=1, stuck=0, refused=0)
    assert "saga_command_stuck" not in caplog.messages
    sender.run_once()
    assert _backlog(world) == tables.Backlog(pending=1, stuck=1, refused=0)
    assert "saga_command_stuck" in caplog.messages


def test_a_batch_takes_the_oldest_first_and_no_more_than_it_may(world: World) -> None:
    world.template()
    for number in range(7):
        world.claim(f"c{number}", user=f"u{number}").place(f"o{number}", f"c{number}", user=f"u{number}")
    hear_all(world)
    sender = dispatcher(world, world.store.engine, SagaSettings(commands_max=3))
    assert [sender.run_once() for _ in range(4)] == [3, 3, 1, 0]
    holds = world.rows("SELECT key FROM events WHERE type = 'checkout.ready.v1' ORDER BY \"offset\"")
    assert [row["key"] for row in holds] == [f"o{number}" for number in range(7)]


def _backlog(world: World) -> tables.Backlog:
    session = Session(world.store.dsn, name="operator")
    with session.looking() as cursor:
        backlog = tables.backlog(cursor, stuck_attempts=5, stuck_seconds=3_600)
    session.close()
    return backlog
