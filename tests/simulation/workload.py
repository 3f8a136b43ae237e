"""What one shop asks for: every kind of command that people, order systems and operators send, drawn by chance."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from command.domain.ids import coupon_id as coupon_id_of
from contracts.commands import (
    ActivateTemplate,
    AdvanceClock,
    AssignCodes,
    CancelDistribution,
    CancelOrder,
    CancelTemplateReservation,
    ClaimCoupon,
    Command,
    ConfirmTemplateReservation,
    CreateBudget,
    CreateTemplate,
    GenerateCodes,
    IncreaseTemplateStock,
    IssueDistributionChunk,
    LockCoupon,
    NoteOrder,
    PauseDistribution,
    PauseTemplate,
    PlaceOrder,
    RedeemCoupon,
    ReleaseCoupon,
    ReopenOrder,
    ReportAdjustment,
    ReportPayment,
    ReportRefund,
    ReserveTemplateStock,
    ResumeDistribution,
    ResumeTemplate,
    ReviseTemplate,
    RevokeCoupon,
    ShortenTemplate,
    StartDistribution,
    TerminateTemplate,
    TopUpBudget,
    UseCode,
    VoidCode,
    VoidCodes,
)
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.orders import OrderLine, RefundLine
from contracts.terms import (
    AmountOff,
    FixedValidity,
    PercentOff,
    PeriodLimit,
    Scope,
    Selector,
    Stacking,
    Terms,
    ValidityAfterClaim,
)
from infra.sagas.first_step import first_step
from tests.simulation.chance import Chance

CURRENCY: Final = "EUR"
USERS: Final = tuple(f"u{number}" for number in range(12))
SKUS: Final = ("tea", "pot", "cup")
RECENT: Final = 60  # Coupons and orders that somebody still thinks of.
CODES: Final = 12
POISON: Final = "unwritable"  # The status of an order that no store can take.


class Wish(NamedTuple):
    """A command, and the first step of its saga if that goes along with it."""

    envelope: CommandEnvelope
    step: CommandEnvelope | None = None


@dataclass(slots=True)
class Placed:
    """An order as its buyer knows it."""

    order_id: str
    user_id: str
    total_minor: int
    lines: int
    payments: int = 0
    refunds: int = 0


class Shop:
    """The callers of one realm. They know only what they were told."""

    def __init__(self, realm: Realm, chance: Chance, clock: Callable[[], datetime], *, business_clock: bool) -> None:
        self.realm = realm
        self.business_clock = business_clock
        self._chance = chance
        self._clock = clock
        self._start = clock()
        self._told_now = self._start  # What the business clock was set to.
        self._serial = 0
        self._templates: list[str] = []
        self._budgets: list[str] = []
        self._coupons: deque[tuple[str, str]] = deque(maxlen=RECENT)  # Id and owner.
        self._locked: deque[tuple[str, str]] = deque(maxlen=RECENT)  # Coupon and an upstream's own order.
        self._orders: deque[Placed] = deque(maxlen=RECENT)
        self._batches: deque[str] = deque(maxlen=4)
        self._reservations: deque[tuple[str, str]] = deque(maxlen=10)
        self._distributions: deque[tuple[str, str, list[str]]] = deque(maxlen=3)
        self._opening = list(self._first_commands())
        self._kinds, self._weights = zip(*self._menu(), strict=True)

    def next_commands(self) -> list[Wish]:
        """What is wanted next, as one or more commands in this order."""
        if self._opening:
            return [Wish(self._envelope(self._opening.pop(0)))]
        (make,) = self._chance.random.choices(self._kinds, self._weights)
        command = make()
        if command is None:
            command = self._claim()
        envelope = self._envelope(command)
        if isinstance(command, CreateTemplate) and command.template_id is not None and self._chance.happens(0.9):
            return [Wish(envelope), Wish(self._envelope(ActivateTemplate(template_id=command.template_id)))]
        # As over HTTP, or over a way in that leaves every step to the saga.
        return [Wish(envelope, first_step(envelope) if self._chance.happens(0.5) else None)]

    def learn(self, command: Command, answer: Answer) -> None:
        """What an answer tells."""
        if not answer.accepted:
            return
        match command:
            case ClaimCoupon() | UseCode():
                self._coupons.append((answer.data["coupon_id"], command.user_id))
            case GenerateCodes():
                self._batches.append(answer.data["batch_id"])

    @property
    def now(self) -> datetime:
        """What callers take for the time."""
        return self._told_now if self.business_clock else self._clock()

    def to_the_end(self) -> CommandEnvelope | None:
        """On a business clock: set it to where everything that ends has ended."""
        self._told_now = max(self._told_now, self._clock()) + timedelta(days=40)
        return self._envelope(AdvanceClock(to=self._told_now)) if self.business_clock else None

    def _menu(self) -> list[tuple[Callable[[], Command | None], int]]:
        return [
            (self._claim, 380),
            (self._order, 150),
            (self._payment, 130),
            (self._refund, 45),
            (self._cancel, 25),
            (self._reopen, 15),
            (self._note, 5),
            (self._poison, 1),
            (self._lock, 45),
            (self._unlock, 40),
            (self._revoke, 6),
            (self._template_changes, 25),
            (self._new_template, 8),
            (self._reserve, 12),
            (self._reservation_ends, 10),
            (self._codes, 10),
            (self._code, 30),
            (self._distribution, 8),
            (self._chunk, 12),
            (self._budget_changes, 4),
            (self._adjust, 3),
            (self._time_passes, 40 if self.business_clock else 0),
        ]

    def _first_commands(self) -> list[Command]:
        chance = self._chance
        opening: list[Command] = [AdvanceClock(to=self._start)] if self.business_clock else []
        for number in range(2):
            self._budgets.append(f"b{number}")
            opening.append(
                CreateBudget(
                    budget_id=f"b{number}",
                    currency=CURRENCY,
                    limit_minor=chance.between(5_000, 60_000),
                    when_short="grant_remainder" if number else "refuse",
                )
            )
        for _ in range(3):
            create = self._new_template()
            assert isinstance(create, CreateTemplate)
            assert create.template_id is not None
            opening += [create, ActivateTemplate(template_id=create.template_id)]
        return opening

    def _envelope(self, command: Command) -> CommandEnvelope:
        self._serial += 1
        # Both shops count their commands alike: an id belongs to its realm.
        return CommandEnvelope(self.realm, f"c{self._serial}", command, "key:simulated", f"k{self._serial}")

    def _id(self, prefix: str) -> str:
        self._serial += 1
        return f"{prefix}{self._serial}"

    def _template(self) -> str:
        # The latest are asked for most: that is where stock and limits are reached.
        return self._chance.one_of(self._templates[-4:] if self._chance.happens(0.8) else self._templates)

    def _user(self) -> str:
        return self._chance.one_of(USERS)

    # Templates and budgets.

    def _terms(self) -> Terms:
        chance = self._chance
        per_user = chance.one_of((None, 1, 2, 5, 20))
        validity = ValidityAfterClaim(duration_seconds=chance.one_of((600, 3_600, 30 * 86_400)))
        until = self.now + timedelta(seconds=chance.one_of((1_800, 20_000, 400_000)))
        fixed = FixedValidity(valid_from=self.now, valid_until=until + timedelta(hours=1))
        percent = PercentOff(percent_bp=chance.one_of((1_000, 1_250, 3_333, 10_000)))
        return Terms(
            name="simulated",
            campaign_id=chance.one_of(("spring", "autumn")),
            currency=CURRENCY,
            discount=AmountOff(amount_minor=chance.between(50, 2_500)) if chance.happens(0.6) else percent,
            minimum_spend_minor=chance.one_of((0, 0, 3_000)),
            discount_max_minor=chance.one_of((None, None, 700)),
            scope=Scope(include=Selector(skus=("tea",))) if chance.happens(0.2) else Scope(),
            stacking=Stacking(priority=chance.between(0, 2), exclusive=chance.happens(0.1)),
            stock=chance.one_of((None, 5, 40, 400)),
            claims_per_user_max=per_user,
            claims_per_period=PeriodLimit(period="day", claims_max=3) if chance.happens(0.2) else None,
            claim_from=self.now - timedelta(seconds=chance.one_of((0, 0, 60))),
            claim_until=until,
            validity=fixed if chance.happens(0.3) else validity,
            budget_ids=tuple(self._budgets[: chance.between(0, len(self._budgets))]),
            on_full_refund=chance.one_of(("return", "return", "keep")),
            on_late_payment=chance.one_of(("refuse", "honour")),
            claimed_stay_valid=chance.happens(0.8),
        )

    def _new_template(self) -> Command:
        template_id = self._id("t")
        self._templates.append(template_id)
        return CreateTemplate(template_id=template_id, terms=self._terms())

    def _template_changes(self) -> Command:
        template_id = self._template()
        match self._chance.between(0, 9):
            case 0 | 1 | 2 | 3:
                return ActivateTemplate(template_id=template_id)
            case 4:
                return PauseTemplate(template_id=template_id)
            case 5 | 6:
                return ResumeTemplate(template_id=template_id)
            case 7:
                return IncreaseTemplateStock(template_id=template_id, by=self._chance.between(1, 50))
            case 8:
                return ReviseTemplate(template_id=template_id, terms=self._terms())
        if self._chance.happens(0.5):
            return ShortenTemplate(template_id=template_id, claim_until=self.now + timedelta(seconds=900))
        return TerminateTemplate(template_id=template_id)

    def _budget_changes(self) -> Command:
        return TopUpBudget(budget_id=self._chance.one_of(self._budgets), by_minor=self._chance.between(100, 20_000))

    def _time_passes(self) -> Command:
        seconds = self._chance.one_of((1, 1, 20, 20, 300, 1_000))
        self._told_now += timedelta(seconds=seconds)
        return AdvanceClock(to=self._told_now)

    # Coupons.

    def _claim(self) -> Command:
        return ClaimCoupon(template_id=self._template(), user_id=self._user())

    def _reserve(self) -> Command:
        template_id, reservation_id = self._template(), self._id("s")
        self._reservations.append((template_id, reservation_id))
        return ReserveTemplateStock(
            template_id=template_id,
            reservation_id=reservation_id,
            user_id=self._user(),
            quantity=self._chance.between(1, 3),
        )

    def _reservation_ends(self) -> Command | None:
        if not self._reservations:
            return None
        template_id, reservation_id = self._chance.one_of(self._reservations)
        kind = ConfirmTemplateReservation if self._chance.happens(0.6) else CancelTemplateReservation
        return kind(template_id=template_id, reservation_id=reservation_id)

    def _lock(self) -> Command | None:
        if self._distributions and self._chance.happens(0.2):
            coupon_id = self._listed()
        elif self._coupons:
            coupon_id, _ = self._chance.one_of(self._coupons)
        else:
            return None
        order_id = f"x{self._chance.between(0, self._serial)}"
        self._locked.append((coupon_id, order_id))
        return LockCoupon(
            coupon_id=coupon_id,
            order_id=order_id,
            discount_minor=self._chance.one_of((0, 500)),
            lock_seconds=self._chance.one_of((None, 60)),
        )

    def _listed(self) -> str:
        """The coupon of somebody on a list, who was given it by now or not; often of those who are next."""
        _, template_id, users = self._chance.one_of((self._distributions[-1], self._chance.one_of(self._distributions)))
        return coupon_id_of(self.realm, template_id, self._chance.one_of((users[0], self._chance.one_of(users))), 1)

    def _unlock(self) -> Command | None:
        if not self._locked:
            return None
        coupon_id, order_id = self._chance.one_of(self._locked)
        if self._chance.happens(0.7):
            return RedeemCoupon(coupon_id=coupon_id, order_id=order_id)
        return ReleaseCoupon(coupon_id=coupon_id, order_id=order_id)

    def _revoke(self) -> Command | None:
        if not self._coupons:
            return None
        return RevokeCoupon(coupon_id=self._chance.one_of(self._coupons)[0], reason="simulated")

    # Codes and distributions.

    def _codes(self) -> Command | None:
        chance = self._chance
        if not self._batches or chance.happens(0.3):
            return GenerateCodes(template_id=self._template(), count=CODES, key_id="k1")
        if chance.happens(0.6):
            users = chance.random.sample(USERS, chance.between(1, 3))
            return AssignCodes(batch_id=chance.one_of(self._batches), user_ids=tuple(users))
        first = chance.between(0, CODES - 1)
        return VoidCodes(
            batch_id=chance.one_of(self._batches),
            first_index=first,
            last_index=min(first + 2, CODES - 1),
            reason="simulated",
        )

    def _code(self) -> Command | None:
        if not self._batches:
            return None
        batch_id, index = self._chance.one_of(self._batches), self._chance.between(0, CODES - 1)
        if self._chance.happens(0.1):
            return VoidCode(batch_id=batch_id, index=index, reason="simulated")
        return UseCode(batch_id=batch_id, index=index, user_id=self._user())

    def _distribution(self) -> Command:
        chance = self._chance
        if self._distributions and chance.happens(0.5):
            distribution_id, _, _ = chance.one_of(self._distributions)
            kinds: tuple[Callable[..., Command], ...] = (PauseDistribution, ResumeDistribution, CancelDistribution)
            return chance.one_of(kinds)(distribution_id=distribution_id)
        users = [chance.one_of(USERS) if chance.happens(0.2) else f"d{self._serial}n{row}" for row in range(12)]
        distribution_id, template_id = self._id("l"), self._template()
        self._distributions.append((distribution_id, template_id, users))
        return StartDistribution(distribution_id=distribution_id, template_id=template_id, users=len(users))

    def _chunk(self) -> Command | None:
        if not self._distributions:
            return None
        distribution_id, _, users = self._chance.one_of(self._distributions)
        first = self._chance.one_of((1, 1, 5, 5, 9))
        return IssueDistributionChunk(
            distribution_id=distribution_id, first_row=first, user_ids=tuple(users[first - 1 : first + 3])
        )

    # Orders, as their own system tells of them: in any order, more than once, before what they depend on.

    def _order(self) -> Command:
        chance = self._chance
        first = chance.one_of(self._coupons) if self._coupons else ("none", self._user())
        owner = first[1]
        coupons = {first[0]} if chance.happens(0.9) else set()
        coupons |= {coupon for coupon, user in list(self._coupons)[-20:] if user == owner and chance.happens(0.4)}
        user_id = owner if chance.happens(0.95) else self._user()
        placed = Placed(self._id("o"), user_id, 0, chance.between(1, 3))
        lines = [self._line(number) for number in range(placed.lines)]
        placed.total_minor = sum(line.amount_minor for line in lines)
        self._orders.append(placed)
        return PlaceOrder(
            order_id=placed.order_id,
            user_id=user_id,
            currency=CURRENCY,
            coupon_ids=tuple(sorted(coupons)[:4]),
            shipping_minor=chance.one_of((0, 0, 490)),
            lines=tuple(lines),
        )

    def _line(self, number: int) -> OrderLine:
        chance = self._chance
        return OrderLine(
            line_id=str(number),
            sku=chance.one_of(SKUS),
            quantity=chance.between(1, 3),
            unit_price_minor=chance.one_of((1, 333, 999, 2_500)),
        )

    def _known(self) -> Placed | None:
        # Mostly one of the latest; now and then one that nobody has placed yet.
        if not self._orders:
            return None
        if self._chance.happens(0.02):
            return Placed(f"o{self._serial + self._chance.between(1, 30)}", self._user(), 1_000, 1)
        return self._chance.one_of(list(self._orders)[-12:])

    def _payment(self) -> Command | None:
        if (order := self._known()) is None:
            return None
        order.payments += 1
        chance = self._chance
        return ReportPayment(
            payment_id=f"p{order.order_id}n{chance.between(1, min(order.payments, 2))}",
            order_id=order.order_id,
            status="succeeded" if chance.happens(0.8) else "failed",
            amount_minor=order.total_minor,
            currency=CURRENCY,
        )

    def _refund(self) -> Command | None:
        if (order := self._known()) is None:
            return None
        order.refunds += 1
        chance = self._chance
        by_line = chance.happens(0.4)
        return ReportRefund(
            refund_id=f"r{order.order_id}n{chance.between(1, order.refunds)}",
            order_id=order.order_id if chance.happens(0.95) else None,
            amount_minor=0 if by_line else chance.one_of((order.total_minor, order.total_minor // 3 + 1)),
            currency=CURRENCY,
            lines=(RefundLine(line_id=str(chance.between(0, order.lines - 1)), quantity=1),) if by_line else (),
        )

    def _cancel(self) -> Command | None:
        if (order := self._known()) is None:
            return None
        return CancelOrder(order_id=order.order_id, cause="cancelled" if self._chance.happens(0.7) else "rejected")

    def _reopen(self) -> Command | None:
        return None if (order := self._known()) is None else ReopenOrder(order_id=order.order_id)

    def _note(self) -> Command | None:
        return None if (order := self._known()) is None else NoteOrder(order_id=order.order_id, status="accepted")

    def _poison(self) -> Command:
        return NoteOrder(order_id=self._id("o"), status=POISON)

    def _adjust(self) -> Command:
        return ReportAdjustment(
            adjustment_id=self._id("a"), amount_minor=self._chance.between(-500, 500), currency=CURRENCY
        )
