"""A saga's first step, sent together with what it will hear: both are decided in one transaction.

The saga stays the guarantee. It hears the fact later and asks for the same step under the same id: that is answered
from the command log, or not even sent when its effect was heard of meanwhile (decision 0008).
"""

from collections.abc import Callable

from command.decisions import event_id_of
from contracts.commands import Command, HoldForOrder, PlaceOrder, RedeemForOrder, ReportPayment
from contracts.envelope import CommandEnvelope
from contracts.placement import Placement
from infra.sagas.hearing import ACTOR
from sagas.process import command_id_of


def first_step(envelope: CommandEnvelope) -> CommandEnvelope | None:
    """What the order's saga will send because of this command's fact; None when that is for the saga to see.

    Sent right behind the command it may find that there is nothing to do (the command was refused, or told nothing
    new); then it changes nothing, as when the saga sends it.
    """
    step = _step(envelope.command)
    if step is None:
        return None
    fact_id = event_id_of(envelope, 0)  # Each of these commands records one fact.
    return CommandEnvelope(
        realm=envelope.realm,
        command_id=command_id_of(fact_id, step),
        command=step,
        actor=ACTOR,
        correlation_id=envelope.correlation_id,
        causation_id=fact_id,
        traceparent=envelope.traceparent,
    )


def first_step_at(placement: Placement) -> Callable[[CommandEnvelope], CommandEnvelope | None]:
    """The same where there are several shards: an order that has to ask another one is left to its saga."""

    def step(envelope: CommandEnvelope) -> CommandEnvelope | None:
        return None if _crosses(placement, envelope) else first_step(envelope)

    return step


def _crosses(placement: Placement, envelope: CommandEnvelope) -> bool:
    """Whether an order is placed with coupons of other shards than its own: their ids tell."""
    realm, command = envelope.realm, envelope.command
    if not isinstance(command, PlaceOrder) or placement.slots_of(realm) is None:
        return False
    own = placement.shard_of(realm, command.order_id)
    return any(placement.shard_of_coupon(realm, coupon_id) != own for coupon_id in command.coupon_ids)


def _step(command: Command) -> Command | None:
    match command:
        case PlaceOrder():
            return HoldForOrder(order_id=command.order_id, attempt=1)
        case ReportPayment(status="succeeded"):
            return RedeemForOrder(order_id=command.order_id, payment_id=command.payment_id)
    return None
