"""The simulated order system: scenarios are data, drawn from a seed, and played without any input or output."""

from collections.abc import Mapping

import pytest

from contracts.commands import CancelOrder, Command, PlaceOrder, ReopenOrder, ReportPayment, ReportRefund
from contracts.orders import OrderLine
from infra.simulator.play import Move, Play, Question, Told
from infra.simulator.scenarios import Pass, catalogue, draw

SCENARIOS = catalogue(lock_seconds=900)
LINES = (
    OrderLine(line_id="1", sku="kettle", unit_price_minor=5_000),
    OrderLine(line_id="2", sku="tea", unit_price_minor=1_000),
)
PLACING = PlaceOrder(order_id="o1", user_id="u1", currency="EUR", coupon_ids=("c1",), shipping_minor=390, lines=LINES)


def moves_of(scenario: str, answers: Mapping[Question, int]) -> list[Move]:
    """All moves of an order, its questions answered."""
    moves, answer = Play(PLACING, SCENARIOS[scenario]).moves(), None
    made: list[Move] = []
    while True:
        try:
            move = moves.send(answer)
        except StopIteration:
            return made
        made.append(move)
        answer = answers[move] if isinstance(move, Question) else None


def commands(moves: list[Move]) -> list[Command]:
    return [move.command for move in moves if isinstance(move, Told)]


def test_a_payment_is_of_what_the_hold_left_to_pay() -> None:
    placed, question, payment = moves_of("pays", {Question.PAYABLE: 5_390})
    assert placed == Told("o1:1", PLACING)
    assert question is Question.PAYABLE
    assert isinstance(payment, Told)
    assert isinstance(payment.command, ReportPayment)
    assert (payment.command.status, payment.command.amount_minor) == ("succeeded", 5_390)


def test_a_payment_before_the_order_is_of_what_was_quoted() -> None:
    moves = moves_of("pays_before_the_order_is_told", {Question.QUOTE: 5_390})
    assert moves[0] is Question.QUOTE
    assert [type(command) for command in commands(moves)] == [ReportPayment, PlaceOrder]


def test_what_is_payable_needs_no_question_when_placing_answers_it() -> None:
    moves = Play(PLACING, SCENARIOS["pays"]).moves()
    moves.send(None)
    payment = moves.send(4_000)
    assert isinstance(payment, Told)
    assert isinstance(payment.command, ReportPayment)
    assert payment.command.amount_minor == 4_000


def test_a_payment_told_twice_is_the_same_payment_under_two_ids() -> None:
    _, _, first, second = moves_of("pays_and_tells_it_twice", {Question.PAYABLE: 1})
    assert isinstance(first, Told)
    assert isinstance(second, Told)
    assert first.command == second.command
    assert first.command_id != second.command_id


def test_parts_of_a_refund_add_up_to_what_was_paid() -> None:
    told = commands(moves_of("refunded_in_two_parts", {Question.PAYABLE: 5_001}))
    parts = [command.amount_minor for command in told if isinstance(command, ReportRefund)]
    assert parts == [1_666, 3_335]


def test_a_refund_can_be_more_than_was_paid() -> None:
    told = commands(moves_of("refunded_too_much", {Question.PAYABLE: 5_000}))
    assert [command.amount_minor for command in told if isinstance(command, ReportRefund)] == [5_500]


def test_a_reopened_order_is_paid_by_what_its_new_hold_left_to_pay() -> None:
    told = commands(moves_of("reopens_and_pays", {Question.PAYABLE: 5_000}))
    assert [type(command) for command in told] == [PlaceOrder, CancelOrder, ReopenOrder, ReportPayment]


def test_business_time_passes_where_the_scenario_says_so() -> None:
    assert Pass(900) in moves_of("pays_late", {Question.PAYABLE: 5_000})


def test_a_seed_draws_the_same_scenarios_again_and_another_seed_others() -> None:
    every = list(SCENARIOS.values())
    assert draw(7, 200, every) == draw(7, 200, every)
    assert draw(7, 200, every) != draw(8, 200, every)


def test_every_scenario_is_drawn_when_there_is_room() -> None:
    assert {scenario.name for scenario in draw(7, len(SCENARIOS), list(SCENARIOS.values()))} == set(SCENARIOS)
    assert len(draw(7, 3, list(SCENARIOS.values()))) == 3


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_order_is_told_exactly_once(name: str) -> None:
    told = commands(moves_of(name, {Question.PAYABLE: 5_000, Question.QUOTE: 5_000}))
    assert sum(isinstance(command, PlaceOrder) for command in told) == 1
