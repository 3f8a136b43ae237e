"""Clients who never give up: they retry under the same id, repeat themselves, and remember every answer for good."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from command.decider import HandlerFailed
from command.ports import CommandKey, StoreUnavailable
from command.unit_of_work import NotYet
from contracts.commands import ClaimCoupon, NoteOrder
from contracts.envelope import Answer, CommandEnvelope
from tests.simulation.workload import POISON, Shop

if TYPE_CHECKING:
    from tests.simulation.world import World

REMEMBERED_MAX: Final = 2_000  # Answered requests that may be repeated.


@dataclass(slots=True)
class Request:
    """One sending of one command; ``imposter``: another content under an id that is taken.

    ``step``: what its saga will ask first, sent right behind it; nobody waits for that answer. ``era``: how many
    restores there had been by then.
    """

    envelope: CommandEnvelope
    shop: Shop
    imposter: bool = False
    step: CommandEnvelope | None = None
    era: int = 0

    @property
    def is_poison(self) -> bool:
        """Whether no store can take what it asks for."""
        command = self.envelope.command
        return isinstance(command, NoteOrder) and command.status == POISON

    @property
    def key(self) -> CommandKey:
        """What the command log files it under."""
        return CommandKey(self.envelope.realm, self.envelope.command_id)


class Asked:
    """One sending of one command by a saga or a timer, whose process waits for the answer, or not any more."""

    def __init__(self, envelope: CommandEnvelope, era: int) -> None:
        self.envelope = envelope
        self.era = era
        self.future: Future[Answer] = Future()

    @property
    def key(self) -> CommandKey:
        """What the command log files it under."""
        return CommandKey(self.envelope.realm, self.envelope.command_id)


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told, for good."""

    command_type: str
    status: str
    code: str
    data: Mapping[str, Any]
    offset: int


class Clients:
    """All clients of all shops. What they were told lives outside of everything that can die."""

    def __init__(self, world: "World", shops: list[Shop]) -> None:
        self.world = world
        self.shops = shops
        self.told: dict[CommandKey, Told] = {}
        self.unanswered: dict[CommandKey, Request] = {}
        self.to_retry: list[Request] = []
        self.sent = 0  # Commands, each counted once however often it was sent.
        self.sendings = 0
        self._answered: list[Request] = []

    def new_requests(self, at_most: int) -> list[Request]:
        """What somebody wants next: something new (mostly), again, or again with another content."""
        chance = self.world.chance
        shop = chance.one_of(self.shops)
        requests: list[Request] = []
        while len(requests) < at_most:
            if self._answered and chance.happens(0.06):
                requests.append(self._again(chance.one_of(self._answered)))
                continue
            for wish in shop.next_commands():
                self.sent += 1
                request = self._request(wish.envelope, shop, step=wish.step)
                self.unanswered[request.key] = request
                requests.append(request)
        return requests

    def last_request(self, shop: Shop) -> Request | None:
        """A realm on a business clock comes to its end when somebody says so."""
        if (envelope := shop.to_the_end()) is None:
            return None
        request = self._request(envelope, shop)
        self.unanswered[request.key] = request
        return request

    def retries(self, at_most: int) -> list[Request]:
        """What got no answer, in any order."""
        self.world.chance.random.shuffle(self.to_retry)
        taken, self.to_retry = self.to_retry[:at_most], self.to_retry[at_most:]
        return [self._repeated(request) for request in taken]

    def impatient(self) -> list[Request]:
        """Somebody does not wait for the answer and asks again, maybe somewhere else."""
        if not self.unanswered:
            return []
        key = self.world.chance.one_of(list(self.unanswered)[-50:])
        return [self._repeated(self.unanswered[key])]

    def lost(self, requests: "Iterable[Request | Asked]") -> None:
        """Whoever was asked is gone, or could not take it: ask again. Sagas do so when they lose patience."""
        self.to_retry += [request for request in requests if isinstance(request, Request)]

    def learn_of_a_restore(self, lost: Collection[CommandKey]) -> None:
        """Answers that are on record no more count as never given; most of them are asked for again."""
        for key in lost:
            self.told.pop(key, None)
        forgotten = [request for request in self._answered if request.key in lost]
        self._answered = [request for request in self._answered if request.key not in lost]
        for request in forgotten:
            if self.world.chance.happens(0.7):
                self.unanswered[request.key] = request
                self.to_retry.append(request)

    def _is_of_a_lost_history(self, request: "Request | Asked", answer: Answer) -> bool:
        """Asked before a restore, answered after it with what is on record no more: nobody is to blame."""
        if request.era == self.world.restores.count:
            return False
        logged = self.world.store.answers.get(request.key)
        answered = (answer.status, answer.code, answer.data, answer.position.offset)
        return logged is None or answered != (logged[1].status, logged[1].code, logged[1].data, logged[1].offset)

    def hear(self, request: "Request | Asked", outcome: object, who: str) -> None:
        """An answer, or an error that says nothing final. An answer is the same for ever."""
        world = self.world
        if isinstance(request, Asked):
            self._pass_on(request, outcome, who)
            return
        if not isinstance(outcome, Answer):
            world.trace.note(f"{who} -> {request.envelope.command_id} {type(outcome).__name__}")
            self._take_no_answer(request, outcome)
            return
        world.trace.note(f"{who} -> {request.envelope.command_id} {outcome.code} {outcome.position.offset}")
        if self._is_of_a_lost_history(request, outcome):
            self.to_retry.append(request)
            return
        if request.imposter:
            if outcome.code != "command_id_reused":
                world.violation("I4", request.envelope.command_id, f"another content was answered {outcome.code}")
            return
        self._take(request, outcome)

    def _take_no_answer(self, request: Request, outcome: object) -> None:
        if isinstance(outcome, HandlerFailed) and request.is_poison:
            self.unanswered.pop(request.key, None)
            return
        if not isinstance(outcome, StoreUnavailable | NotYet):
            self.world.violation("I2", request.envelope.command_id, f"{outcome!r}")
        self.to_retry.append(request)

    def _pass_on(self, asked: Asked, outcome: object, who: str) -> None:
        """To whoever sent it. The same command may have been sent by a client, too: the answer is the same."""
        if isinstance(outcome, Answer):
            self.world.note(f"{who} -> {asked.envelope.command_id} {outcome.code} {outcome.position.offset}")
            if not self._is_of_a_lost_history(asked, outcome):
                self._remember(asked, outcome)
            asked.future.set_result(outcome)
        else:
            assert isinstance(outcome, Exception)
            asked.future.set_exception(outcome)

    def _remember(self, request: Request | Asked, answer: Answer) -> None:
        offset = answer.position.offset
        told = Told(request.envelope.command.type, answer.status, answer.code, answer.data, offset)
        first = self.told.setdefault(request.key, told)
        if first != told:
            self.world.violation("I4", request.envelope.command_id, f"told {first}, and then {told}")

    def _take(self, request: Request, answer: Answer) -> None:
        if request.is_poison:
            self.world.violation("I2", request.envelope.command_id, "told of what no store can take")
        self._remember(request, answer)
        if self.unanswered.pop(request.key, None) is not None:
            request.shop.learn(request.envelope.command, answer)
            if len(self._answered) < REMEMBERED_MAX:
                self._answered.append(request)
            else:
                self._answered[self.world.chance.between(0, REMEMBERED_MAX - 1)] = request

    def _again(self, request: Request) -> Request:
        # Not where an answer may be lost: then it might be the other content that is on record in the end.
        if self.world.chance.happens(0.2) and not self.world.plan.restores:
            other = request.envelope._replace(command=ClaimCoupon(template_id="another", user_id="somebody"))
            return self._request(other, request.shop, imposter=True)
        return self._repeated(request)

    def _repeated(self, request: Request) -> Request:
        return self._request(request.envelope, request.shop, imposter=request.imposter, step=request.step)

    def _request(
        self,
        envelope: CommandEnvelope,
        shop: Shop,
        *,
        imposter: bool = False,
        step: CommandEnvelope | None = None,
    ) -> Request:
        self.sendings += 1
        return Request(envelope, shop, imposter, step, self.world.restores.count)
