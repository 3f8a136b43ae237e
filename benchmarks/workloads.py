"""What callers ask for in a benchmark: real commands, each with a new id, against stores prepared by real commands."""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import Final, Protocol

from command.engine import Engine
from contracts.commands import (
    ActivateTemplate,
    ClaimCoupon,
    Command,
    CreateTemplate,
    LockCoupon,
    ReleaseCoupon,
    StartDistribution,
)
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.terms import PercentOff, Terms, ValidityAfterClaim
from infra.bootstrap.stores import WriteSide
from infra.distributions.runner import DistributionRunner
from infra.distributions.starting import Starting
from infra.postgres import distributions
from infra.postgres.connections import transaction
from infra.telemetry.ids import new_id

REALM: Final = Realm("bench", "shop")
ACTOR: Final = "key:bench"
SPREAD_TEMPLATES: Final = 1_000
STOCK: Final = 100_000_000
HOT: Final = "hot"
SETUP_CHUNK: Final = 1_000
SETUP_TIMEOUT_SECONDS: Final = 60.0


class SetupRefused(RuntimeError):
    """A command that prepares a benchmark was refused: its figures would mean nothing."""


class Workload(Protocol):
    """A stream of commands for each client; a client sends its next one when it has the answer to the last."""

    def prepare(self, engine: Engine, clients: int) -> None:
        """Make what the commands need. May be called again, for other numbers of clients."""
        ...

    def next(self, client: int) -> Command:
        """What this client wants next."""
        ...

    def command_id(self) -> str:
        """The id of the next command."""
        ...


class IdsOfTheApi:
    """Callers give no ids: commands go by those that the API makes."""

    def command_id(self) -> str:
        """As the API makes it."""
        return new_id()


class ClaimsHot(IdsOfTheApi):
    """Every claim is of one template, by a user who never claimed before (one claim per user is the limit)."""

    def __init__(self, sender: str) -> None:
        self._users = (f"{sender}-u{number}" for number in count())

    def prepare(self, engine: Engine, clients: int) -> None:
        """One template with stock for all."""
        make_templates(engine, (HOT,))

    def next(self, client: int) -> Command:
        return ClaimCoupon(template_id=HOT, user_id=next(self._users))


class ClaimsHotUnderRandomIds(ClaimsHot):
    """As ``ClaimsHot``, by callers who give ids of their own that fall anywhere: the worst case for an index."""

    def __init__(self, sender: str) -> None:
        super().__init__(f"{sender}-own")
        self._random = random.Random(os.urandom(32))

    def command_id(self) -> str:
        """128 random bits."""
        return f"{self._random.getrandbits(128):032x}"


class ClaimsSpread(IdsOfTheApi):
    """As ``ClaimsHot``, in turn over a thousand templates."""

    def __init__(self, sender: str) -> None:
        self._users = (f"{sender}-u{number}" for number in count())
        self._turns = count()

    def prepare(self, engine: Engine, clients: int) -> None:
        """A thousand templates."""
        make_templates(engine, [spread_template(number) for number in range(SPREAD_TEMPLATES)])

    def next(self, client: int) -> Command:
        template_id = spread_template(next(self._turns) % SPREAD_TEMPLATES)
        return ClaimCoupon(template_id=template_id, user_id=next(self._users))


class LocksExternal(IdsOfTheApi):
    """An upstream with a checkout of its own locks and releases coupons: one event, on one stream, per command.

    Each client has coupons of its own and takes them in turn: lock, release, next coupon.
    """

    COUPONS_PER_CLIENT: Final = 20

    def __init__(self, sender: str) -> None:
        self._sender = sender
        self._coupons: list[list[str]] = []
        self._turns: list[int] = []

    def prepare(self, engine: Engine, clients: int) -> None:
        """Claim each client's coupons."""
        make_templates(engine, (HOT,))
        new = range(len(self._coupons), clients)
        per_client = self.COUPONS_PER_CLIENT
        claims = [
            ClaimCoupon(template_id=HOT, user_id=f"{self._sender}-c{client}-{n}")
            for client in new
            for n in range(per_client)
        ]
        coupons = [str(answer.data["coupon_id"]) for answer in carry_out(engine, claims)]
        self._coupons += [coupons[index : index + per_client] for index in range(0, len(coupons), per_client)]
        self._turns += [0 for _ in new]

    def next(self, client: int) -> Command:
        turn = self._turns[client]
        self._turns[client] = turn + 1
        mine = self._coupons[client]
        coupon_id, order_id = mine[turn // 2 % len(mine)], f"{self._sender}-o{client}-{turn // 2}"
        if turn % 2 == 0:
            return LockCoupon(coupon_id=coupon_id, order_id=order_id, discount_minor=500)
        return ReleaseCoupon(coupon_id=coupon_id, order_id=order_id)


WORKLOADS: Final[dict[str, Callable[[str], Workload]]] = {
    "claims_hot": ClaimsHot,
    "claims_hot_random_ids": ClaimsHotUnderRandomIds,
    "claims_spread": ClaimsSpread,
    "locks": LocksExternal,
}


def distribute(side: WriteSide, dsn: str, name: str, template_id: str, users: int) -> None:
    """Give one template to so many new users as production does: list staged, started, carried out by the runner.

    Raises SetupRefused when not everybody got a coupon.
    """
    make_templates(side.engine, (template_id,))
    starting = Starting(dsn, side.engine.dry_run, side.engine.execute)
    start = StartDistribution(distribution_id=name, template_id=template_id, users=users)
    require_accepted([starting.start(envelope(start), [f"{name}-u{row}" for row in range(users)])])
    runner = DistributionRunner(dsn, side.log, side.engine)
    try:
        while runner.run_once():
            pass
    finally:
        runner.close()
    with transaction(dsn, name="bench") as cursor:
        job = distributions.find(cursor, REALM, name)
    if job is None or job.issued != users:
        raise SetupRefused(f"the distribution stands at {job}")


def spread_template(number: int) -> str:
    """The id of one of the thousand."""
    return f"t{number:04}"


def terms(name: str) -> Terms:
    """Open from yesterday for a month; stock for everybody, one claim per user."""
    now = datetime.now(UTC)
    return Terms(
        name=name,
        campaign_id="c-bench",
        currency="GBP",
        discount=PercentOff(percent_bp=1_000),
        stock=STOCK,
        claims_per_user_max=1,
        claim_from=now - timedelta(days=1),
        claim_until=now + timedelta(days=30),
        validity=ValidityAfterClaim(duration_seconds=30 * 86_400),
    )


def make_templates(engine: Engine, template_ids: Iterable[str]) -> None:
    """Create and activate; those that another process made already are as good."""
    ids = list(template_ids)
    carry_out(engine, [CreateTemplate(template_id=each, terms=terms(each)) for each in ids], may_exist=True)
    carry_out(engine, [ActivateTemplate(template_id=each) for each in ids], may_exist=True)


def envelope(command: Command, command_id: str | None = None) -> CommandEnvelope:
    """A command on its way in, under an id as the API makes them for callers who give none."""
    command_id = command_id or new_id()
    return CommandEnvelope(REALM, command_id, command, ACTOR, command_id)


def carry_out(engine: Engine, commands: Iterable[Command], *, may_exist: bool = False) -> list[Answer]:
    """Send commands in chunks and wait. Raises SetupRefused for the first that is refused."""
    waiting, answers = iter(commands), []
    while chunk := list(islice(waiting, SETUP_CHUNK)):
        futures = engine.submit_many([envelope(command) for command in chunk])
        answers += [future.result(SETUP_TIMEOUT_SECONDS) for future in futures]
    if not may_exist:
        require_accepted(answers)
    return answers


def require_accepted(answers: Sequence[Answer]) -> None:
    """Raises SetupRefused for the first answer that is a refusal."""
    for answer in answers:
        if not answer.accepted:
            raise SetupRefused(f"{answer.code}: {answer.detail}")
