"""Settlement arithmetic: examples from the specification, and what holds for every order, coupon and refund."""

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command.domain.budget import Room
from command.domain.pricing import CALCULATORS, Candidate, Priced, Returned, allocate, divide, price, refund_credit
from contracts.orders import HeldCoupon, OrderLine, RefundLine
from contracts.terms import CouponRef, Discount, Scope, Selector, Stacking, Terms
from tests.builders import VECTOR, line, off, percent, terms

ABOUT = CouponRef(
    template_id="t1",
    terms_version=1,
    campaign_id="spring",
    shop_id=None,
    source="platform",
    user_id="u",
    currency="GBP",
)


def priced(lines: tuple[OrderLine, ...], *coupons: Terms, shipping_minor: int = 0, **more: Any) -> Priced:
    candidates = [Candidate(f"c{index}", it) for index, it in enumerate(coupons)]
    return price(lines, shipping_minor, "GBP", candidates, **more)


def codes(result: Priced) -> list[tuple[str | None, str]]:
    return [(refusal.coupon_id, refusal.code) for refusal in result.refusals]


def frozen(result: Priced) -> list[HeldCoupon]:
    return [
        HeldCoupon(
            coupon_id=it.coupon_id,
            about=ABOUT,
            discount_minor=it.discount_minor,
            lines=it.lines,
            budgets=(),
            on_full_refund="return",
        )
        for it in result.applied
    ]


# ---- Discounts


def test_ten_off_fifty_and_ten_is_allocated_as_8_33_and_1_67() -> None:
    result = priced(VECTOR, terms(discount=off(1000)))
    assert [it.discount_minor for it in result.lines] == [833, 167]
    assert (result.total_minor, result.discount_minor, result.payable_minor) == (6000, 1000, 5000)


def test_every_kind_of_discount_has_its_calculator() -> None:
    union, *_ = get_args(Discount)
    assert set(CALCULATORS) == set(get_args(union))


def test_a_percentage_is_taken_of_what_the_coupons_before_it_left() -> None:
    result = priced(VECTOR, terms(discount=off(1000)), terms(discount=percent(1000)))
    assert [it.discount_minor for it in result.applied] == [1000, 500]


def test_the_lower_priority_number_goes_first_whatever_the_request_order() -> None:
    first = terms(discount=percent(1000), stacking=Stacking(priority=-1))
    result = priced(VECTOR, terms(discount=off(1000)), first)
    assert [(it.coupon_id, it.discount_minor) for it in result.applied] == [("c1", 600), ("c0", 1000)]


def test_a_cap_bounds_the_discount() -> None:
    assert priced(VECTOR, terms(discount=percent(5000), discount_max_minor=700)).discount_minor == 700


def test_a_discount_never_exceeds_what_it_applies_to_and_leaves_shipping_to_pay() -> None:
    result = priced(VECTOR, terms(discount=off(9999)), shipping_minor=350)
    assert (result.discount_minor, result.payable_minor) == (6000, 350)


def test_half_even_rounds_a_half_to_the_even_unit_and_half_up_rounds_it_up() -> None:
    lines = (line("a", 25),)
    assert priced(lines, terms(discount=percent(1000))).discount_minor == 2
    assert priced(lines, terms(discount=percent(1000), rounding="half_up")).discount_minor == 3


@pytest.mark.parametrize(
    ("scope", "discounted"),
    [
        (Scope(include=Selector(skus=("a",))), ["a"]),
        (Scope(include=Selector(categories=("food",))), ["b", "c"]),
        (Scope(include=Selector(shops=("s1",))), ["c"]),
        (Scope(include=Selector(skus=("a",), shops=("s1",))), ["a", "c"]),
        (Scope(exclude=Selector(skus=("a",))), ["b", "c"]),
        (Scope(include=Selector(categories=("food",)), exclude=Selector(shops=("s1",))), ["b"]),
    ],
)
def test_a_scope_selects_lines_by_sku_category_or_shop_and_an_exclusion_wins(
    scope: Scope, discounted: list[str]
) -> None:
    lines = (line("a", 100), line("b", 100, category="food"), line("c", 100, category="food", shop_id="s1"))
    result = priced(lines, terms(discount=percent(5000), scope=scope))
    assert [it.line_id for it in result.lines if it.discount_minor] == discounted


def test_an_exclusive_coupon_stands_alone_when_it_goes_first() -> None:
    result = priced(VECTOR, terms(stacking=Stacking(exclusive=True)), terms())
    assert ([it.coupon_id for it in result.applied], codes(result)) == (["c0"], [("c1", "not_combinable")])


def test_an_exclusive_coupon_is_refused_when_another_went_before_it() -> None:
    result = priced(VECTOR, terms(), terms(stacking=Stacking(exclusive=True)))
    assert codes(result) == [("c1", "not_combinable")]


def test_an_unusable_coupon_stands_in_nobodys_way() -> None:
    unusable = terms(stacking=Stacking(exclusive=True), minimum_spend_minor=10_000)
    result = priced(VECTOR, unusable, terms())
    assert ([it.coupon_id for it in result.applied], codes(result)) == (["c1"], [("c0", "minimum_spend_not_reached")])


def test_below_the_minimum_spend_the_missing_amount_is_told() -> None:
    (refusal,) = priced(VECTOR, terms(minimum_spend_minor=6320)).refusals
    assert (refusal.code, refusal.missing_minor, refusal.detail) == ("minimum_spend_not_reached", 320, "3.20 GBP more.")


def test_the_minimum_spend_looks_at_the_lines_in_scope_before_any_discount() -> None:
    small = Scope(include=Selector(skus=("small",)))
    result = priced(VECTOR, terms(discount=off(500), scope=small), terms(minimum_spend_minor=1000, scope=small))
    assert [it.discount_minor for it in result.applied] == [500, 500]


def test_a_coupon_in_another_currency_is_refused() -> None:
    assert codes(priced(VECTOR, terms(currency="EUR"))) == [("c0", "currency_mismatch")]


@pytest.mark.parametrize(
    "coupons",
    [
        (terms(scope=Scope(include=Selector(skus=("other",)))),),
        (terms(discount=off(6001)), terms(discount=off(1))),
        (terms(discount=percent(1), scope=Scope(include=Selector(skus=("penny",)))),),
    ],
)
def test_a_coupon_that_takes_nothing_off_is_not_applicable(coupons: tuple[Terms, ...]) -> None:
    assert codes(priced((*VECTOR, line("penny", 1)), *coupons))[-1] == (f"c{len(coupons) - 1}", "not_applicable")


def test_where_nothing_is_in_scope_no_minimum_spend_is_missing() -> None:
    elsewhere = terms(minimum_spend_minor=100, scope=Scope(include=Selector(skus=("other",))))
    assert codes(priced(VECTOR, elsewhere)) == [("c0", "not_applicable")]


def test_a_short_budget_refuses_or_grants_its_remainder_as_it_was_told() -> None:
    short = terms(budget_ids=("b",))
    assert codes(priced(VECTOR, short, rooms={"b": Room("", 999, "refuse")})) == [("c0", "budget_exhausted")]
    result = priced(VECTOR, short, rooms={"b": Room("", 999, "grant_remainder")})
    assert (result.discount_minor, [it.discount_minor for it in result.lines]) == (999, [833, 166])


def test_two_coupons_on_one_budget_share_its_room() -> None:
    one = terms(budget_ids=("b",))
    assert codes(priced(VECTOR, one, one, rooms={"b": Room("", 1999, "refuse")})) == [("c1", "budget_exhausted")]
    assert priced(VECTOR, one, one, rooms={"b": Room("", 2000, "refuse")}).discount_minor == 2000


def test_the_tightest_of_several_budgets_decides() -> None:
    two = terms(budget_ids=("wide", "tight"))
    rooms = {"wide": Room("", 5000, "refuse"), "tight": Room("", 300, "grant_remainder")}
    assert priced(VECTOR, two, rooms=rooms).discount_minor == 300
    rooms["wide"] = Room("", 299, "refuse")
    assert codes(priced(VECTOR, two, rooms=rooms)) == [("c0", "budget_exhausted")]


# ---- What always holds

amounts = st.integers(0, 10_000_000)
order_lines = st.lists(st.tuples(amounts, st.integers(1, 12), st.sampled_from(["x", "y"])), min_size=1, max_size=8).map(
    lambda rows: tuple(
        line(f"l{i}", amount, quantity, category=kind) for i, (amount, quantity, kind) in enumerate(rows)
    )
)
any_terms = st.builds(
    terms,
    discount=st.one_of(st.integers(1, 20_000_000).map(off), st.integers(1, 10_000).map(percent)),
    minimum_spend_minor=st.sampled_from([0, 0, 0, 5_000_000]),
    discount_max_minor=st.none() | st.integers(1, 1_000_000),
    rounding=st.sampled_from(["half_even", "half_up"]),
    scope=st.sampled_from(
        [Scope(), Scope(include=Selector(categories=("x",))), Scope(exclude=Selector(categories=("x",)))]
    ),
    stacking=st.builds(Stacking, priority=st.integers(-2, 2), exclusive=st.sampled_from([False, False, False, True])),
    budget_ids=st.sampled_from([(), ("b",)]),
)
rooms = st.builds(
    lambda left, short: {"b": Room("", left, short)}, amounts, st.sampled_from(["refuse", "grant_remainder"])
)


@given(order_lines, st.lists(any_terms, max_size=5), amounts, rooms)
def test_discounts_add_up_exactly_and_never_exceed_anything(
    lines: tuple[OrderLine, ...], coupons: list[Terms], shipping_minor: int, room: dict[str, Room]
) -> None:
    result = priced(lines, *coupons, shipping_minor=shipping_minor, rooms=room)
    by_line = {it.line_id: 0 for it in lines}
    for applied in result.applied:
        assert applied.discount_minor == sum(share.discount_minor for share in applied.lines) > 0
        for share in applied.lines:
            by_line[share.line_id] += share.discount_minor
    assert by_line == {it.line_id: it.discount_minor for it in result.lines}
    assert all(0 <= it.discount_minor <= it.amount_minor for it in result.lines)
    assert result.payable_minor == result.total_minor - result.discount_minor >= shipping_minor
    on_budget = [it.discount_minor for it in result.applied if coupons[int(it.coupon_id[1:])].budget_ids]
    assert sum(on_budget) <= room["b"].available_minor
    assert {it.coupon_id for it in result.applied} | {it.coupon_id for it in result.refusals} == {
        f"c{index}" for index in range(len(coupons))
    }


@given(order_lines, st.lists(any_terms, max_size=5, unique_by=lambda it: it.stacking.priority), st.randoms())
def test_with_distinct_priorities_the_request_order_changes_nothing(
    lines: tuple[OrderLine, ...], coupons: list[Terms], shuffle: Any
) -> None:
    candidates = [Candidate(f"c{index}", it) for index, it in enumerate(coupons)]
    shuffled = list(candidates)
    shuffle.shuffle(shuffled)
    one, other = price(lines, 0, "GBP", candidates), price(lines, 0, "GBP", shuffled)
    assert (one.lines, one.applied) == (other.lines, other.applied)
    assert set(codes(one)) == set(codes(other))


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_an_allocation_sums_exactly_and_is_within_one_unit_of_its_share(amount: int, weights: list[int]) -> None:
    amount = min(amount, sum(weights))
    shares = allocate(amount, weights)
    assert sum(shares) == amount
    total = sum(weights)
    for share, weight in zip(shares, weights, strict=True):
        assert 0 <= share <= weight
        assert total == 0 or abs(share * total - amount * weight) < total


@given(st.integers(0, 10**18), st.integers(1, 10**6))
def test_division_is_to_the_nearest_and_the_modes_differ_at_halves_only(dividend: int, divisor: int) -> None:
    even, up = divide(dividend, divisor), divide(dividend, divisor, "half_up")
    assert 2 * abs(even * divisor - dividend) <= divisor
    assert up - even == int(2 * (dividend % divisor) == divisor and even % 2 == 0 and even * divisor < dividend)


# ---- Refunds


def test_the_vector_fifty_returned_credits_8_33_and_the_other_line_still_costs_8_33() -> None:
    result = priced(VECTOR, terms(discount=off(1000)))
    outcome = refund_credit(
        result.lines,
        0,
        frozen(result),
        Returned(),
        [RefundLine(line_id="big")],
        amount_minor=4167,
        paid_left_minor=5000,
    )
    assert (outcome.credited_minor, outcome.lines[0].net_minor, outcome.full) == (833, 4167, False)
    small = result.lines[1]
    assert small.amount_minor - small.discount_minor == 833


def test_pieces_take_their_share_and_the_last_one_the_remainder() -> None:
    result = priced((line("three", 1000, 3),), terms(discount=off(1000)))
    so_far, credited, full = Returned(), [], False
    for _ in range(3):
        outcome = refund_credit(
            result.lines,
            0,
            frozen(result),
            so_far,
            [RefundLine(line_id="three", quantity=1)],
            amount_minor=0,
            paid_left_minor=2000,
        )
        so_far = so_far.plus(outcome.lines, outcome.shipping_minor, outcome.credits)
        credited.append(outcome.credited_minor)
        full = outcome.full
    assert (credited, full) == ([333, 334, 333], True)


def test_a_free_order_that_is_given_back_is_fully_refunded_by_no_money() -> None:
    result = priced(VECTOR, terms(discount=off(6000)))
    outcome = refund_credit(result.lines, 0, frozen(result), Returned(), (), amount_minor=0, paid_left_minor=0)
    assert (outcome.credited_minor, outcome.full) == (6000, True)


def test_a_line_that_the_order_does_not_have_and_one_already_back_credit_nothing() -> None:
    result = priced(VECTOR, terms(discount=off(1000)))
    once = refund_credit(
        result.lines, 0, frozen(result), Returned(), [RefundLine(line_id="big")], amount_minor=0, paid_left_minor=5000
    )
    so_far = Returned().plus(once.lines, 0, once.credits)
    again = [RefundLine(line_id="big", quantity=1), RefundLine(line_id="nobody")]
    outcome = refund_credit(result.lines, 0, frozen(result), so_far, again, amount_minor=0, paid_left_minor=833)
    assert (outcome.credited_minor, outcome.lines, outcome.full) == (0, (), False)


def test_when_all_the_money_is_back_everything_is_even_if_a_line_was_rounded_otherwise() -> None:
    result = priced((line("three", 1000, 3),), terms(discount=off(1000)))
    piece = refund_credit(
        result.lines,
        0,
        frozen(result),
        Returned(),
        [RefundLine(line_id="three", quantity=1)],
        amount_minor=668,  # We would have said 667.
        paid_left_minor=2000,
    )
    so_far = Returned().plus(piece.lines, 0, piece.credits)
    rest = refund_credit(result.lines, 0, frozen(result), so_far, (), amount_minor=1332, paid_left_minor=1332)
    assert (piece.credited_minor + rest.credited_minor, rest.full) == (1000, True)


def test_once_all_the_money_is_back_more_of_it_returns_no_line() -> None:
    result = priced(VECTOR, terms(discount=off(1000)))
    back = [RefundLine(line_id="big")]
    gross = refund_credit(result.lines, 0, frozen(result), Returned(), back, amount_minor=5000, paid_left_minor=5000)
    so_far = Returned().plus(gross.lines, 0, gross.credits)
    more = refund_credit(result.lines, 0, frozen(result), so_far, (), amount_minor=900, paid_left_minor=0)
    assert (gross.credited_minor, more.credited_minor, more.full) == (833, 0, False)


@st.composite
def refunds(draw: st.DrawFn) -> tuple[Priced, int, list[tuple[list[RefundLine], int]]]:
    """A priced order and refunds of it: some by lines, pieces or parts of a line, some by amount."""
    lines = draw(order_lines)
    shipping_minor = draw(amounts)
    plain = any_terms.map(lambda it: it.model_copy(update={"budget_ids": ()}))
    result = priced(lines, *draw(st.lists(plain, max_size=4)), shipping_minor=shipping_minor)
    by_line = st.builds(
        RefundLine,
        line_id=st.sampled_from([it.line_id for it in lines]),
        quantity=st.none() | st.integers(1, 15),
        amount_minor=st.none() | st.integers(1, 10_000_000),
    )
    one = st.tuples(
        st.one_of(st.just([]), st.lists(by_line, max_size=4, unique_by=lambda it: it.line_id)),
        st.integers(0, max(result.payable_minor, 1)),
    )
    return result, shipping_minor, draw(st.lists(one, max_size=6))


@given(refunds())
@settings(max_examples=300)
def test_refunds_credit_the_whole_discount_once_all_is_back_however_they_are_split(
    case: tuple[Priced, int, list[tuple[list[RefundLine], int]]],
) -> None:
    result, shipping_minor, steps = case
    coupons = frozen(result)
    so_far, credited, paid_left, full = Returned(), 0, result.payable_minor, False
    # Whatever comes before, a last refund gives all the lines back.
    for refunded, amount_minor in [*steps, ([RefundLine(line_id=it.line_id) for it in result.lines], 0)]:
        outcome = refund_credit(
            result.lines,
            shipping_minor,
            coupons,
            so_far,
            refunded,
            amount_minor=amount_minor,
            paid_left_minor=paid_left,
        )
        so_far = so_far.plus(outcome.lines, outcome.shipping_minor, outcome.credits)
        credited += outcome.credited_minor
        paid_left = max(paid_left - amount_minor, 0)
        assert 0 <= credited <= result.discount_minor
        for it in coupons:
            for share in it.lines:
                back = so_far.credited_minor.get(it.coupon_id, {}).get(share.line_id, 0)
                assert 0 <= back <= share.discount_minor
        for frozen_line in result.lines:
            assert 0 <= so_far.pieces.get(frozen_line.line_id, 0) <= frozen_line.quantity
            net = frozen_line.amount_minor - frozen_line.discount_minor
            assert 0 <= so_far.net_minor.get(frozen_line.line_id, 0) <= net
        full = outcome.full
    assert full
    assert credited == result.discount_minor


@given(refunds(), st.lists(st.integers(1, 10_000_000), max_size=6))
def test_refunds_by_amount_that_add_up_to_what_was_paid_credit_exactly_the_discount(
    case: tuple[Priced, int, list[tuple[list[RefundLine], int]]], splits: list[int]
) -> None:
    result, shipping_minor, _ = case
    so_far, credited, paid_left, full = Returned(), 0, result.payable_minor, False
    parts: list[int] = []
    for amount in splits:
        parts.append(min(amount, paid_left - sum(parts)))
    for amount_minor in [*(part for part in parts if part), paid_left - sum(parts)]:
        outcome = refund_credit(
            result.lines,
            shipping_minor,
            frozen(result),
            so_far,
            (),
            amount_minor=amount_minor,
            paid_left_minor=paid_left,
        )
        so_far = so_far.plus(outcome.lines, outcome.shipping_minor, outcome.credits)
        credited += outcome.credited_minor
        paid_left -= amount_minor
        full = outcome.full
    assert (credited, full) == (result.discount_minor, True)


@given(order_lines, any_terms)
def test_more_than_was_paid_credits_no_more_than_all(lines: tuple[OrderLine, ...], coupon: Terms) -> None:
    result = priced(lines, coupon)
    outcome = refund_credit(
        result.lines,
        0,
        frozen(result),
        Returned(),
        (),
        amount_minor=10**12,
        paid_left_minor=result.payable_minor,
    )
    assert (outcome.credited_minor, outcome.full) == (result.discount_minor, True)
