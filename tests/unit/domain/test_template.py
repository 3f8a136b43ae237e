"""Templates: life cycle, terms, stock, limits and reservations."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from command.domain.template import TEMPLATE
from contracts.commands import (
    ActivateTemplate,
    CancelTemplateReservation,
    CloseTemplate,
    Command,
    ConfirmTemplateReservation,
    CreateTemplate,
    IncreaseTemplateStock,
    OpenTemplate,
    PauseTemplate,
    ReserveTemplateStock,
    ResumeTemplate,
    ReviseTemplate,
    ShortenTemplate,
    TerminateTemplate,
)
from contracts.events import (
    CouponClaimed,
    TemplateActivated,
    TemplateCouponIssued,
    TemplateCreated,
    TemplateEnded,
    TemplateOpened,
    TemplatePaused,
    TemplateReservationCancelled,
    TemplateReservationConfirmed,
    TemplateResumed,
    TemplateRevised,
    TemplateShortened,
    TemplateStockIncreased,
    TemplateStockReserved,
)
from contracts.refusals import (
    AlreadyExists,
    CurrencyMismatch,
    Ended,
    NotActive,
    NotPaused,
    NotStarted,
    Paused,
    PeriodLimitReached,
    TemplateExhausted,
    TermsFixed,
    TooMany,
    UnknownBudget,
    UnknownReservation,
    UnknownTemplate,
    UserLimitReached,
)
from contracts.terms import FixedValidity, PeriodLimit
from tests.builders import DAY, budget, claim, coupon_of, off, template, terms
from tests.gwt import NOON, Wait, given

DRAFT = CreateTemplate(template_id="t1", terms=terms())
PAUSE = PauseTemplate(template_id="t1", reason="too hot")
RESUME = ResumeTemplate(template_id="t1")
TERMINATE = TerminateTemplate(template_id="t1", reason="enough")
ACTIVATE = ActivateTemplate(template_id="t1")
OPEN = OpenTemplate(template_id="t1")
CLOSE = CloseTemplate(template_id="t1")
MORE = IncreaseTemplateStock(template_id="t1", by=4)
SOONER = ShortenTemplate(template_id="t1", claim_until=NOON + timedelta(hours=2))


def reserve(reservation_id: str = "r1", user_id: str = "alice", quantity: int = 2) -> ReserveTemplateStock:
    return ReserveTemplateStock(template_id="t1", reservation_id=reservation_id, user_id=user_id, quantity=quantity)


def confirm(reservation_id: str = "r1") -> ConfirmTemplateReservation:
    return ConfirmTemplateReservation(template_id="t1", reservation_id=reservation_id)


def cancel(reservation_id: str = "r1") -> CancelTemplateReservation:
    return CancelTemplateReservation(template_id="t1", reservation_id=reservation_id, reason="changed my mind")


def revise(**changes: Any) -> ReviseTemplate:
    return ReviseTemplate(template_id="t1", terms=terms(**changes))


def ended_after_a_day() -> list[Any]:
    return [*template(), Wait(DAY)]


# ---- Life cycle


def test_a_draft_becomes_active_is_paused_resumed_and_ended() -> None:
    history = given().when(DRAFT, ACTIVATE, PAUSE, RESUME, TERMINATE)
    history.then([TemplateCreated, TemplateActivated, TemplatePaused, TemplateResumed, TemplateEnded])


@pytest.mark.parametrize(
    ("past", "again"),
    [
        ([DRAFT], DRAFT),
        (template(), ACTIVATE),
        ([*template(), PAUSE], ACTIVATE),
        ([*template(), PAUSE], PAUSE),
        (template(), RESUME),
        ([*template(), TERMINATE], TERMINATE),
        ([*template(), OPEN], OPEN),
        ([*template(), Wait(DAY), CLOSE], CLOSE),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_asking_again_records_nothing_new(past: list[Any], again: Command) -> None:
    given(past).when(again).then_nothing()


def test_a_template_without_an_id_gets_one_that_follows_from_the_command() -> None:
    draft = CreateTemplate(terms=terms())
    first, same = given().when(draft), given().when(draft)
    assert first.data == same.data
    assert first.data["template_id"].startswith("t")


def test_another_template_under_a_known_id_is_refused() -> None:
    given([DRAFT]).when(CreateTemplate(template_id="t1", terms=terms(name="Other"))).then_refused(AlreadyExists)


@pytest.mark.parametrize(
    "command",
    [ACTIVATE, PAUSE, RESUME, TERMINATE, OPEN, CLOSE, MORE, SOONER, revise(), reserve(), confirm(), cancel(), claim()],
    ids=lambda command: command.type,
)
def test_nothing_can_be_asked_of_an_unknown_template(command: Command) -> None:
    given().when(command).then_refused(UnknownTemplate)


@pytest.mark.parametrize(
    "command",
    [ACTIVATE, PAUSE, RESUME, MORE, SOONER, revise(name="Other"), reserve(), claim()],
    ids=lambda command: command.type,
)
def test_an_ended_template_stays_as_it_is(command: Command) -> None:
    given([*template(stock=5), TERMINATE]).when(command).then_refused(Ended)


@pytest.mark.parametrize("command", [ACTIVATE, PAUSE, RESUME, revise(name="Other"), reserve(), claim()])
def test_the_window_s_end_ends_it_from_the_instant_itself_without_a_timer(command: Command) -> None:
    given(ended_after_a_day()).when(command).then_refused(Ended)


def test_a_microsecond_before_its_end_it_can_still_be_claimed() -> None:
    given([*template(), Wait(DAY - 0.000001)]).when(claim()).then([TemplateCouponIssued, CouponClaimed])


def test_a_draft_can_neither_be_paused_nor_resumed_nor_claimed_from() -> None:
    given([DRAFT]).when(PAUSE).then_refused(NotActive)
    given([DRAFT]).when(RESUME).then_refused(NotPaused)
    given([DRAFT]).when(claim()).then_refused(NotActive)


def test_a_draft_whose_window_is_over_cannot_be_activated() -> None:
    given([DRAFT, Wait(DAY)]).when(ACTIVATE).then_refused(Ended)


def test_a_timer_records_the_opening_once_it_is_true() -> None:
    early = given(template(claim_from=NOON + timedelta(hours=1)))
    early.when(OPEN).then_not_yet()
    early.when(OPEN, after=3600).then([TemplateOpened(template_id="t1", opened_at=NOON + timedelta(hours=1))])


def test_a_timer_records_the_end_once_it_is_true_and_as_of_the_end() -> None:
    given(template()).when(CLOSE).then_not_yet()
    ended = TemplateEnded(template_id="t1", cause="window_closed", reason="", ended_at=NOON + timedelta(days=1))
    given([*template(), Wait(2 * DAY)]).when(CLOSE).then([ended])


def test_terminating_what_the_window_ended_already_says_so() -> None:
    ended = TemplateEnded(template_id="t1", cause="window_closed", reason="", ended_at=NOON + timedelta(days=1))
    given([*template(), Wait(2 * DAY)]).when(TERMINATE).then([ended])


# ---- Terms


def test_stock_only_goes_up() -> None:
    given(template(stock=1)).when(MORE).then([TemplateStockIncreased(template_id="t1", by=4, stock=5)])


def test_an_unlimited_stock_cannot_go_up() -> None:
    given(template()).when(MORE).then_refused(TermsFixed)


def test_the_end_may_come_earlier_and_then_ends_the_template() -> None:
    world = given(template())
    world.when(SOONER).then([TemplateShortened])
    world.when(SOONER).then_nothing()
    world.when(claim(), after=7199).then([TemplateCouponIssued, CouponClaimed])
    world.when(claim("bob"), after=1).then_refused(Ended)


@pytest.mark.parametrize("hours", [25, 0])
def test_the_end_may_come_neither_later_nor_in_the_past(hours: int) -> None:
    until = NOON + timedelta(hours=hours)
    given(template()).when(ShortenTemplate(template_id="t1", claim_until=until)).then_refused(TermsFixed)


def test_a_revision_makes_new_terms_and_a_claimed_coupon_keeps_its_own() -> None:
    world = given([*template(), claim()])
    world.when(revise(discount=off(500))).then([TemplateRevised])
    world.when(revise(discount=off(500))).then_nothing()
    world.when(claim("bob")).then([TemplateCouponIssued, CouponClaimed])
    versions = [claimed.about.terms_version for claimed in world.world.events(CouponClaimed)]
    state = world.world.state(TEMPLATE, "t1")
    assert [state.terms[version].discount for version in versions] == [off(1000), off(500)]


def test_a_revision_may_extend_the_window() -> None:
    given([*template(), revise(claim_until=NOON + timedelta(days=9)), Wait(2 * DAY)]).when(claim()).then(
        [TemplateCouponIssued, CouponClaimed]
    )


@pytest.mark.parametrize(
    "change", [{"currency": "EUR"}, {"stock": 7}, {"claim_until": NOON + timedelta(minutes=1)}], ids=str
)
def test_a_revision_changes_neither_currency_nor_stock_nor_the_past(change: dict[str, Any]) -> None:
    given([*template(stock=5), Wait(60)]).when(revise(**({"stock": 5} | change))).then_refused(TermsFixed)


def test_the_number_of_revisions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("command.domain.template.TERMS_VERSIONS_MAX", 2)
    given([*template(), revise(name="Second")]).when(revise(name="Third")).then_refused(TooMany)


def test_the_budgets_that_terms_name_must_exist_and_speak_their_currency() -> None:
    on_budget = CreateTemplate(template_id="t1", terms=terms(budget_ids=("b1",)))
    given().when(on_budget).then_refused(UnknownBudget)
    given([budget("b1").model_copy(update={"currency": "EUR"})]).when(on_budget).then_refused(CurrencyMismatch)
    given([budget("b1")]).when(on_budget).then([TemplateCreated])
    given(template()).when(revise(budget_ids=("b1",))).then_refused(UnknownBudget)


# ---- Claims


def test_a_claim_takes_one_of_the_stock_and_gives_the_user_a_coupon() -> None:
    outcome = given(template(stock=1)).when(claim())
    outcome.then([TemplateCouponIssued, CouponClaimed])
    outcome.then_answered(
        coupon_id=coupon_of("alice"),
        template_id="t1",
        user_id="alice",
        valid_from="2026-03-02T12:00:00+00:00",
        valid_until="2026-04-01T12:00:00+00:00",
    )


def test_no_more_are_claimed_than_there_are() -> None:
    given([*template(stock=2), claim("a"), claim("b")]).when(claim("c")).then_refused(TemplateExhausted)


def test_before_the_window_nothing_is_claimed() -> None:
    given(template(claim_from=NOON + timedelta(seconds=1))).when(claim()).then_refused(NotStarted)


def test_while_it_is_paused_nothing_is_claimed() -> None:
    given([*template(), PAUSE]).when(claim()).then_refused(Paused)


def test_what_would_be_claimed_must_still_be_valid() -> None:
    validity = FixedValidity(valid_from=NOON, valid_until=NOON + timedelta(hours=1))
    given([*template(validity=validity), Wait(3600)]).when(claim()).then_refused(Ended)


def test_nobody_claims_more_than_the_limit_and_others_still_may() -> None:
    world = given([*template(claims_per_user_max=2), claim(), claim()])
    world.when(claim()).then_refused(UserLimitReached)
    world.when(claim("bob")).then([TemplateCouponIssued, CouponClaimed])


def test_the_limit_per_day_is_counted_by_the_template_s_own_midnight() -> None:
    evening = datetime(2026, 3, 2, 22, 30, tzinfo=UTC)  # 23:30 in Berlin.
    daily = PeriodLimit(period="day", claims_max=1)
    world = given(
        template(claims_per_period=daily, zone="Europe/Berlin", claim_until=NOON + timedelta(days=9)), now=evening
    )
    world.when(claim()).then([TemplateCouponIssued, CouponClaimed])
    world.when(claim(), after=1799).then_refused(PeriodLimitReached)
    world.when(claim(), after=1).then([TemplateCouponIssued, CouponClaimed])


# ---- Reservations


def test_a_reservation_is_confirmed_into_coupons() -> None:
    world = given(template(stock=2))
    world.when(reserve()).then([TemplateStockReserved])
    outcome = world.when(confirm())
    outcome.then(
        [TemplateReservationConfirmed, TemplateCouponIssued, CouponClaimed, TemplateCouponIssued, CouponClaimed]
    )
    outcome.then_answered(coupon_ids=[coupon_of(nth=1), coupon_of(nth=2)])
    state = world.world.state(TEMPLATE, "t1")
    assert (state.claimed, state.reserved, state.remaining) == (2, 0, 0)


def test_reserved_stock_is_gone_for_others_until_it_is_cancelled() -> None:
    world = given([*template(stock=2), reserve()])
    world.when(claim("bob")).then_refused(TemplateExhausted)
    world.when(cancel()).then([TemplateReservationCancelled])
    world.when(claim("bob")).then([TemplateCouponIssued, CouponClaimed])


def test_more_than_the_stock_cannot_be_reserved() -> None:
    given(template(stock=1)).when(reserve()).then_refused(TemplateExhausted)


def test_reserved_coupons_count_towards_the_user_s_limit_from_the_reserve_on() -> None:
    world = given([*template(claims_per_user_max=2), reserve()])
    world.when(claim()).then_refused(UserLimitReached)
    world.when(reserve("r2", quantity=1)).then_refused(UserLimitReached)
    world.when(confirm()).then_answered(reservation_id="r1")
    world.when(claim()).then_refused(UserLimitReached)


def test_a_confirmed_reservation_is_not_counted_twice_while_another_is_open() -> None:
    past = [*template(claims_per_user_max=3), reserve("r1", quantity=1), confirm("r1"), reserve("r2", quantity=1)]
    world = given(past)
    world.when(claim()).then_answered(user_id="alice")
    world.when(claim()).then_refused(UserLimitReached)


def test_a_cancelled_reservation_gives_the_user_his_limit_back() -> None:
    given([*template(claims_per_user_max=2), reserve(), cancel()]).when(claim(), claim()).then_answered(user_id="alice")


def test_reserved_coupons_count_in_the_period_of_the_reserve_and_are_not_counted_twice() -> None:
    daily = PeriodLimit(period="day", claims_max=2)
    world = given([*template(claims_per_period=daily, claim_until=NOON + timedelta(days=9)), reserve()])
    world.when(claim()).then_refused(PeriodLimitReached)
    world.and_given(Wait(DAY))
    world.when(confirm()).then_answered(reservation_id="r1")
    world.when(claim(), claim()).then_answered(user_id="alice")  # Yesterday's reservation is not today's claim.


def test_cancelling_the_next_day_frees_the_day_it_was_reserved_in() -> None:
    daily = PeriodLimit(period="day", claims_max=2)
    world = given([*template(claims_per_period=daily, claim_until=NOON + timedelta(days=9)), reserve(), Wait(DAY)])
    world.when(cancel()).then([TemplateReservationCancelled])
    world.when(claim(), claim()).then_answered(user_id="alice")
    world.when(claim()).then_refused(PeriodLimitReached)


def test_coupons_claimed_between_reserve_and_confirm_have_ids_of_their_own() -> None:
    outcome = given([*template(), reserve(quantity=1), claim()]).when(confirm())
    outcome.then_answered(coupon_ids=[coupon_of(nth=2)])


def test_a_reservation_repeated_is_the_same_and_with_other_content_another() -> None:
    world = given([*template(), reserve()])
    world.when(reserve()).then_nothing()
    world.when(reserve(quantity=3)).then_refused(AlreadyExists)


def test_a_confirmed_reservation_cannot_be_used_again() -> None:
    world = given([*template(), reserve(), confirm()])
    world.when(confirm()).then_nothing()
    world.when(reserve()).then_refused(AlreadyExists)
    world.when(cancel()).then_refused(UnknownReservation)


def test_a_cancelled_reservation_stays_cancelled() -> None:
    world = given([*template(), reserve(), cancel()])
    world.when(cancel()).then_nothing()
    world.when(confirm()).then_refused(UnknownReservation)
    world.when(reserve()).then_refused(AlreadyExists)


def test_a_claim_is_a_claim_so_a_pause_stops_confirming_but_never_cancelling() -> None:
    world = given([*template(), reserve(), PAUSE])
    world.when(confirm()).then_refused(Paused)
    world.when(cancel()).then([TemplateReservationCancelled])


def test_an_ended_template_still_gets_its_reserved_stock_back() -> None:
    given([*template(), reserve(), TERMINATE]).when(cancel()).then([TemplateReservationCancelled])


def test_the_number_of_open_reservations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("command.domain.template.RESERVATIONS_OPEN_MAX", 1)
    given([*template(), reserve("r1")]).when(reserve("r2", "bob")).then_refused(TooMany)
