"""Commands to shards: one engine per event store behind the face of one engine."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from command.domain.ids import derived_id
from command.engine import Busy, Engine, EngineStopped, Listener, Outcome
from command.tickets import Submitting
from contracts.commands import AdvanceClock, CreateBudget, CreateTemplate, GenerateCodes, QuoteOrder, StartDistribution
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.placement import Placement
from contracts.position import Position

# What places a command of a realm that is spread: the first of these that it names.
PLACING_FIELDS: Final = (
    "template_id",
    "order_id",
    "budget_id",
    "distribution_id",
    "batch_id",
    "break_id",
    "import_id",
    "adjustment_id",
)
NOT_PLACEABLE: Final = "not_placeable"


class NotPlaceable(Exception):
    """Nothing that the command names says where it belongs; the message says what would."""


def shard_of(placement: Placement, envelope: CommandEnvelope) -> int:
    """The shard that decides a command. Raises NotPlaceable. A clock's advance belongs to every shard of its realm."""
    realm, command = envelope.realm, envelope.command
    told: int | None = getattr(command, "shard", None)
    if told is not None:
        if told not in placement.shards:
            raise NotPlaceable(f"there is no shard {told}; there are {sorted(placement.shards)}")
        return told
    if placement.slots_of(realm) is None:
        return placement.home_of(realm)
    if isinstance(command, AdvanceClock):
        return placement.shards_of(realm)[0]
    if isinstance(command, QuoteOrder):
        return _shard_of_quote(placement, realm, command)
    return _shard_of_named(placement, envelope)


def _shard_of_named(placement: Placement, envelope: CommandEnvelope) -> int:
    realm, command = envelope.realm, envelope.command
    if isinstance(command, StartDistribution):
        _require_together(placement, realm, command)
    if isinstance(command, GenerateCodes):  # Two shards would number their batches alike, and so make the same codes.
        raise NotPlaceable(f"{realm.key} is spread over several shards: codes are only for tenants that live on one")
    if (coupon_id := getattr(command, "coupon_id", None)) is not None:
        return placement.shard_of_coupon(realm, coupon_id)
    for name in PLACING_FIELDS:
        if (key := getattr(command, name, None)) is not None:
            return placement.shard_of(realm, key)
    if isinstance(command, CreateTemplate | CreateBudget):
        prefix = "t" if isinstance(command, CreateTemplate) else "b"
        return placement.shard_of(realm, derived_id(prefix, realm, envelope.command_id))
    wanted = "the order_id" if command.type == "report_refund" else "an id of what it is about"
    raise NotPlaceable(f"{realm.key} is spread over several shards, and {command.type} does not name {wanted}")


def _shard_of_quote(placement: Placement, realm: Realm, command: QuoteOrder) -> int:
    shards = {placement.shard_of_coupon(realm, coupon_id) for coupon_id in command.coupon_ids}
    if len(shards) > 1:
        told = f"the coupons of this quote lie on shards {sorted(shards)}"
        raise NotPlaceable(f"{told}: quote them one shard at a time, or place the order")
    return shards.pop() if shards else placement.shards_of(realm)[0]


def _require_together(placement: Placement, realm: Realm, command: StartDistribution) -> None:
    own, template = (placement.shard_of(realm, key) for key in (command.distribution_id, command.template_id))
    if own != template:
        told = f"distribution {command.distribution_id} would lie on shard {own}, its template on {template}"
        raise NotPlaceable(f"{told}: name it with the template's id in braces, {{{command.template_id}}}-…")


class Router(Submitting):
    """The engines of all shards as one: what takes commands takes this in the place of an engine.

    Commands of one call that lie on one shard are kept together and in order, as an engine keeps them.
    """

    def __init__(self, engines: Mapping[int, Engine], positions: Mapping[int, Position], placement: Placement) -> None:
        """``positions``: of each shard any position, for answers that no shard gives."""
        self._engines = engines
        self._positions = positions
        self._placement = placement

    @property
    def is_running(self) -> bool:
        """Whether every shard takes commands."""
        return all(engine.is_running for engine in self._engines.values())

    @property
    def queue_length(self) -> int:
        """How many commands wait, at all shards."""
        return sum(engine.queue_length for engine in self._engines.values())

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands, each at its shard; each listener hears its outcome once.

        Raises Busy or EngineStopped when none was queued; once some were, the listeners of the others hear that.
        """
        by_shard: dict[int, list[tuple[CommandEnvelope, Listener]]] = {}
        for envelope, listener in envelopes:
            try:
                shard = shard_of(self._placement, envelope)
            except NotPlaceable as error:
                listener(self.refused(envelope, error))
                continue
            is_clock = isinstance(envelope.command, AdvanceClock)
            heard = self._everywhere_else(envelope, shard, listener) if is_clock else listener
            by_shard.setdefault(shard, []).append((envelope, heard))
        queued = False
        for shard, pairs in by_shard.items():
            try:
                self._engines[shard].submit_to(pairs)
                queued = True
            except (Busy, EngineStopped) as error:
                if not queued and len(by_shard) == 1 and len(pairs) == len(envelopes):
                    raise
                for _, listener in pairs:
                    listener(error)

    def dry_run(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        """What would be answered, storing nothing. Raises StoreUnavailable or HandlerFailed."""
        try:
            return self._engines[shard_of(self._placement, envelope)].dry_run(envelope, at)
        except NotPlaceable as error:
            return self.refused(envelope, error)

    def shard_of(self, envelope: CommandEnvelope) -> int:
        """The shard that decides a command. Raises NotPlaceable."""
        return shard_of(self._placement, envelope)

    def refused(self, envelope: CommandEnvelope, error: NotPlaceable) -> Answer:
        """What is answered to a command that belongs to no shard."""
        position = self._positions[self._placement.shards_of(envelope.realm)[0]]
        return Answer("refused", NOT_PLACEABLE, str(error), {}, position)

    def _everywhere_else(self, envelope: CommandEnvelope, first: int, listener: Listener) -> Listener:
        """A clock that was advanced on its first shard is advanced on the others; the slowest answer is the answer."""
        others = [shard for shard in self._placement.shards_of(envelope.realm) if shard != first]

        def next_shard(outcome: Outcome) -> None:
            if not others or not (isinstance(outcome, Answer) and outcome.accepted):
                listener(outcome)
                return
            try:
                self._engines[others.pop(0)].submit_to([(envelope, next_shard)])
            except (Busy, EngineStopped) as error:
                listener(error)

        return next_shard
