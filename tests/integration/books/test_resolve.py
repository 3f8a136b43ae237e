"""What an operator ends by hand: asked for no more, on record with who and why, and the books can be explained."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from command.ports import StreamConflict
from contracts.commands import ReportPayment
from infra.cli import app
from infra.cli.errors import ExitCode
from infra.postgres import outbox
from infra.postgres.connections import transaction
from tests.integration.books.conftest import Business

REASON = "paid in euros; given back by hand"


def tessera(business: Business, *arguments: str, code: int = ExitCode.OK) -> dict[str, Any]:
    """What a command tells in JSON, the error included."""
    given = CliRunner().invoke(app, [*arguments, "--json"], env=business.addresses)
    assert given.exit_code == code, given.output + given.stderr
    told: dict[str, Any] = json.loads(given.stdout if code != ExitCode.ERROR else given.stderr)
    return told


def resolve(business: Business, order: str = "o", code: int = ExitCode.OK) -> dict[str, Any]:
    whose = ("--tenant", business.world.realm.tenant_id, "--app", business.world.realm.app_id)
    return tessera(business, "sagas", "resolve", order, "--reason", REASON, *whose, "--yes", code=code)


@pytest.fixture
def paid_in_euros(business: Business) -> Business:
    """An order in pounds whose payment in euros came before it: its redemption was refused for good."""
    world = business.world
    euros = ReportPayment(payment_id="p", order_id="o", status="succeeded", amount_minor=5_000, currency="EUR")
    world.budget(20_000).template(budget_ids=("pot",)).claim().tell(euros).place().settle()
    assert (world.step(), [row["refused_code"] for row in world.owed()]) == ("redeeming", ["currency_mismatch"])
    return business


def test_what_was_refused_is_ended_once_with_who_and_why(paid_in_euros: Business) -> None:
    world = paid_in_euros.world
    first, again = resolve(paid_in_euros), resolve(paid_in_euros)
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert first["resolved"] == again["resolved"]
    (entry,) = first["resolved"]
    assert (entry["reason"], entry["step"]) == (REASON, "resolved")
    assert [each["type"] for each in entry["ended"]] == ["redeem_for_order"]
    assert entry["by"].startswith("operator:")
    assert (world.owed(), world.step()) == ([], "resolved")
    assert world.types("saga", "checkout:o").count("resolved") == 1
    shown = tessera(paid_in_euros, "sagas", "show", "o")
    assert [each["because"] for each in shown["heard"] if each["because"]] == [f"{entry['by']}: {REASON}"]


def test_the_saga_that_is_running_goes_on_from_there_and_the_books_can_be_explained(paid_in_euros: Business) -> None:
    world = paid_in_euros.world
    resolve(paid_in_euros)
    with pytest.raises(StreamConflict):  # The lock ends; who heard the order before remembers an older state of it.
        world.later(minutes=20).settle()
    world.settle()  # As its worker does after this.
    assert (world.checkout(), world.step(), world.coupon()) == (["ready", "released"], "resolved", "released")
    assert world.pot() == {"reserved": 0, "committed": 0, "credited": 0}
    paid_in_euros.follow()
    assert [each.kind for each in paid_in_euros.found()] == ["paid_not_redeemed"]
    assert paid_in_euros.broken() == set()
    found = tessera(paid_in_euros, "reconcile", "breaks", code=ExitCode.FINDINGS)["breaks"]
    (mine,) = [each for each in found if each["tenant_id"] == world.realm.tenant_id]
    explained = tessera(paid_in_euros, "reconcile", "explain", mine["break_id"])["events"]
    assert [each["data"]["reason"] for each in explained if each["type"] == "saga.resolved.v1"] == [REASON]


def test_nothing_is_ended_of_an_order_that_was_refused_nothing(business: Business) -> None:
    business.world.template().claim().place().settle_ear()
    told = resolve(business, code=ExitCode.ERROR)["error"]
    assert told["what"].startswith("nothing of order 'o' was refused: it stands at holding, and 1 of its commands")
    assert "sagas show o" in told["next_step"]
    business.world.settle()
    assert business.world.step() == "held"


def test_of_an_operator_that_retries_and_one_that_ends_one_comes_too_late(paid_in_euros: Business) -> None:
    world = paid_in_euros.world
    with transaction(world.store.dsn, name="operator") as cursor:
        assert outbox.retry(cursor, world.realm, "checkout:o") == (0, 1)
    resolve(paid_in_euros, code=ExitCode.ERROR)
    assert [row["refused_code"] for row in world.owed()] == [None]
    world.settle()
    assert resolve(paid_in_euros)["is_new"]
    with transaction(world.store.dsn, name="operator") as cursor:
        assert outbox.retry(cursor, world.realm, "checkout:o") == (0, 0)


def test_an_order_that_nobody_knows_is_named_with_where_to_look(business: Business) -> None:
    told = resolve(business, "o-999", code=ExitCode.ERROR)["error"]
    assert "heard of order 'o-999'" in told["what"]
    assert "sagas list" in told["next_step"]
