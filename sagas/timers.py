"""Durable timers: which events set or clear them, and which command a due one sends, to record what is already true."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from contracts.commands import CloseTemplate, Command, EndCouponLock, EndOrderLock, ExpireCoupon, OpenTemplate
from contracts.envelope import Recorded
from contracts.events import (
    BorrowingBegan,
    BorrowingTold,
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutReleased,
    CouponClaimed,
    CouponExpired,
    CouponLocked,
    CouponRedeemed,
    CouponReleased,
    CouponReturned,
    CouponRevoked,
    Event,
    TemplateActivated,
    TemplateEnded,
    TemplateOpened,
    TemplateRevised,
    TemplateShortened,
)
from contracts.identity import Realm

TimerKind = Literal[
    "template_open", "template_close", "coupon_expiry", "coupon_lock_end", "order_lock_end", "borrowing_end"
]


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire at ``due_at`` (business time), replacing the timer of the same kind and key. ``data`` is JSON."""

    kind: TimerKind
    key: str
    due_at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClearTimer:
    """There is nothing to wait for any more."""

    kind: TimerKind
    key: str


TimerChange = SetTimer | ClearTimer


@dataclass(frozen=True, slots=True)
class DueTimer:
    """A timer whose time has come. ``set_by`` is the version, in its stream, of the event that set it."""

    realm: Realm
    kind: TimerKind
    key: str
    due_at: datetime
    set_by: int
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def command_id(self) -> str:
        """One id per timer that was set: fired twice, it is the same command and answered once.

        Kind, key and due time do not suffice: a coupon that comes back has the expiry it had before, and a command
        that was answered for the former timer would be answered from the log for the new one.
        """
        return f"timer:{self.kind}:{self.key}:{self.due_at.isoformat()}:{self.set_by}"


def command_of(timer: DueTimer) -> Command:
    """What a due timer asks of the write side."""
    return _COMMANDS[timer.kind](timer)


_COMMANDS: Final[dict[TimerKind, Callable[[DueTimer], Command]]] = {
    "template_open": lambda timer: OpenTemplate(template_id=timer.key),
    "template_close": lambda timer: CloseTemplate(template_id=timer.key),
    "coupon_expiry": lambda timer: ExpireCoupon(coupon_id=timer.key),
    "coupon_lock_end": lambda timer: EndCouponLock(
        coupon_id=timer.key, order_id=timer.data["order_id"], lock_until=timer.due_at
    ),
    "order_lock_end": lambda timer: EndOrderLock(order_id=timer.key, lock_until=timer.due_at),
    "borrowing_end": lambda timer: EndOrderLock(order_id=timer.key, lock_until=timer.due_at),
}


def changes_timers(event: Event) -> bool:
    """Whether this kind of event sets or clears timers."""
    return type(event) in _CHANGES


def changes_of(recorded: Recorded) -> tuple[TimerChange, ...]:
    """The timers that one event sets or clears."""
    change = _CHANGES.get(type(recorded.event))
    return change(recorded.event) if change is not None else ()


def _activated(event: TemplateActivated) -> tuple[TimerChange, ...]:
    if event.claim_from is None or event.claim_until is None:
        return ()
    return _window(event.template_id, event.claim_from, event.claim_until)


def _revised(event: TemplateRevised) -> tuple[TimerChange, ...]:
    return _window(event.template_id, event.terms.claim_from, event.terms.claim_until)


def _window(template_id: str, claim_from: datetime, claim_until: datetime) -> tuple[TimerChange, ...]:
    return (SetTimer("template_open", template_id, claim_from), SetTimer("template_close", template_id, claim_until))


def _opened(event: TemplateOpened) -> tuple[TimerChange, ...]:
    return (ClearTimer("template_open", event.template_id),)


def _shortened(event: TemplateShortened) -> tuple[TimerChange, ...]:
    return (SetTimer("template_close", event.template_id, event.claim_until),)


def _ended(event: TemplateEnded) -> tuple[TimerChange, ...]:
    return (ClearTimer("template_open", event.template_id), ClearTimer("template_close", event.template_id))


def _claimed(event: CouponClaimed) -> tuple[TimerChange, ...]:
    return (SetTimer("coupon_expiry", event.coupon_id, event.valid_until),)


def _locked(event: CouponLocked) -> tuple[TimerChange, ...]:
    """A locked coupon does not expire; an order's own hold is timed once for the whole order, by checkout.ready."""
    cleared = ClearTimer("coupon_expiry", event.coupon_id)
    if not event.external:
        return (cleared,)
    return (
        cleared,
        SetTimer("coupon_lock_end", event.coupon_id, event.lock_until, {"order_id": event.order_id}),
    )


def _free_again(event: CouponReleased | CouponReturned) -> tuple[TimerChange, ...]:
    """Expiry runs again, also when its time passed meanwhile: then it fires at once."""
    cleared = ClearTimer("coupon_lock_end", event.coupon_id)
    if event.valid_until is None:
        return (cleared,)
    return (cleared, SetTimer("coupon_expiry", event.coupon_id, event.valid_until))


def _gone(event: CouponRedeemed | CouponExpired | CouponRevoked) -> tuple[TimerChange, ...]:
    return (ClearTimer("coupon_expiry", event.coupon_id), ClearTimer("coupon_lock_end", event.coupon_id))


def _asking(event: BorrowingBegan) -> tuple[TimerChange, ...]:
    """An order over several shards does not wait for ever for one that is away.

    A timer of its own: set and cleared by one stream, because two may be heard in any order.
    """
    return (SetTimer("borrowing_end", event.order_id, event.until),)


def _answered(event: BorrowingTold) -> tuple[TimerChange, ...]:
    return (ClearTimer("borrowing_end", event.order_id),)


def _held(event: CheckoutReady) -> tuple[TimerChange, ...]:
    return (SetTimer("order_lock_end", event.order_id, event.lock_until),)


def _unheld(event: CheckoutCompleted | CheckoutCompletedUnredeemed | CheckoutReleased) -> tuple[TimerChange, ...]:
    return (ClearTimer("order_lock_end", event.order_id),)


_CHANGES: Final[dict[type[Event], Callable[[Any], tuple[TimerChange, ...]]]] = {
    TemplateActivated: _activated,
    TemplateRevised: _revised,
    TemplateShortened: _shortened,
    TemplateOpened: _opened,
    TemplateEnded: _ended,
    CouponClaimed: _claimed,
    CouponLocked: _locked,
    CouponReleased: _free_again,
    CouponReturned: _free_again,
    CouponRedeemed: _gone,
    CouponExpired: _gone,
    CouponRevoked: _gone,
    BorrowingBegan: _asking,
    BorrowingTold: _answered,
    CheckoutReady: _held,
    CheckoutReleased: _unheld,
    CheckoutCompleted: _unheld,
    CheckoutCompletedUnredeemed: _unheld,
}
