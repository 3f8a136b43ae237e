"""First steps that are sent along with what causes them, on real PostgreSQL: lost, late, or in the middle of others."""

from contextlib import closing

from contracts.commands import HoldForOrder
from contracts.envelope import CommandEnvelope
from infra.sagas.first_step import first_step
from infra.sagas.runner import SagaRunner
from tests.integration.sagas.world import Store, World


def test_an_order_and_its_hold_are_one_transaction_and_nothing_is_owed(store: Store) -> None:
    world = World(store, steps_along=True)
    world.budget(1_000).template(budget_ids=("pot",)).claim().place()
    assert (world.coupon(), world.checkout(), world.pot()["reserved"]) == ("locked", ["ready"], 1_000)
    transactions = world.rows(
        "SELECT DISTINCT xmin::text AS id FROM stored_events WHERE originator_id LIKE %s AND topic IN (%s, %s, %s, %s)",
        f"{world.realm.key}/%",
        *("order.placed.v1", "coupon.locked.v1", "budget.reserved.v1", "checkout.ready.v1"),
    )
    assert len(transactions) == 1
    world.settle_ear()
    assert (world.owed(), world.step()) == ([], "held")
    world.close()


def test_it_is_calm_when_something_was_heard_and_nothing_is_to_be_sent(store: Store) -> None:
    for steps_along in (True, False):
        world = World(store, steps_along=steps_along)
        world.template().claim().settle_ear().place()
        with closing(SagaRunner(store.sagas(), store.feed)) as ear:
            assert ear.run_once()
            assert ear.is_calm is steps_along
            assert ear.run_once()  # Nothing but what it wrote itself: the next step may be about to come.
            assert not ear.is_calm
        world.close()


def test_a_first_step_that_was_lost_is_the_sagas_to_ask_for(world: World) -> None:
    world.template().claim().place().settle_ear()
    assert [owed["command_type"] for owed in world.owed()] == ["hold_for_order"]
    assert (world.settle().step(), world.coupon()) == ("held", "locked")


def test_a_first_step_that_comes_after_the_sagas_own_changes_nothing(world: World) -> None:
    world.template().claim()
    told = CommandEnvelope(world.realm, "order", world.placing(), "upstream", "order")
    world.tell(told.command, command_id="order").settle()
    step = first_step(told)
    assert step is not None
    answer = world.store.engine.execute(step)
    assert (answer.accepted, answer.replayed, answer.data["checkout"]["status"]) == (True, True, "ready")
    assert (world.settle().step(), world.checkout(), world.double_effects()) == ("held", ["ready"], [])


def test_a_saga_that_owes_the_step_already_has_it_answered_by_the_late_one(world: World) -> None:
    world.template().claim()
    told = CommandEnvelope(world.realm, "order", world.placing(), "upstream", "order")
    world.tell(told.command, command_id="order").settle_ear()
    step = first_step(told)
    assert step is not None
    assert world.store.engine.execute(step).accepted
    assert world.settle().owed() == []
    assert (world.step(), world.checkout(), world.double_effects()) == ("held", ["ready"], [])


def test_an_order_told_twice_under_two_ids_is_held_once(store: Store) -> None:
    world = World(store, steps_along=True)
    world.template().claim().tell(world.placing(), command_id="one").tell(world.placing(), command_id="two").settle()
    assert (world.step(), world.checkout(), world.owed()) == ("held", ["ready"], [])
    world.close()


def test_a_step_behind_a_refused_order_holds_nothing_new(store: Store) -> None:
    world = World(store, steps_along=True)
    world.template().claim().claim("d", user="bob").place().settle()
    assert world.do(world.placing("o", "d"), command_id="other").code == "order_is_different"
    assert (world.settle().checkout(), world.coupon("d"), world.owed()) == (["ready"], "claimed", [])
    world.close()


def test_what_was_decided_is_told_by_the_command_that_decided_it_only(world: World) -> None:
    world.template().claim().place().settle()
    again = world.do(HoldForOrder(order_id="o", attempt=1))
    assert again.data == {"order_id": "o", "status": "held", "attempt": 1}
