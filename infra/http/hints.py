"""Refusals of claims that are foreseen without asking the engine: hints, neither stored nor final.

When the engine refused a claim because the template is exhausted or the user's limit is reached, the next claims of
that template (or of that user) would be refused, too. For a second they are told so at once. What the engine says is
heard here and, through Redis, by the other API processes; nothing is ever accepted here.

Three rules keep a hint from doing harm:

- **A command that may have been decided is never hinted at.** An id that we made for this very request is new. An id
  that the caller told is looked up in the command log; when it is there, or the look-up fails, the engine answers.
- **Who insists is decided.** The second request with one id goes to the engine.
- **A hint ends.** It holds for ``seconds`` after the engine's refusal was heard, in all processes together: what comes
  from Redis brings the rest of its time along. It ends at once in the process that hears of the opposite (a claim
  accepted, a change of the template). And whoever believed Redis asks the engine next: a Redis that answers nonsense
  holds a claim up for twice ``seconds``, no longer.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

import structlog

from command.ports import CommandKey
from contracts.commands import ClaimCoupon
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.refusals import PeriodLimitReached, TemplateExhausted, UserLimitReached
from infra.http.gathering import Gathering
from infra.redis.hints import HintKey, SharedHint

logger = structlog.get_logger(__name__)

TEMPLATES_MAX: Final = 10_000
# Hints about users, over all templates together.
USERS_MAX: Final = 200_000
IDS_REMEMBERED_MAX: Final = 100_000
UNSENT_MAX: Final = 10_000
# For so long after a refusal others' hints about the template are asked for; before, claims pay nothing for hints.
INTEREST_SECONDS: Final = 60.0
STORE_WAIT_SECONDS: Final = 0.004
STORE_WRITE_SECONDS: Final = 0.25
# After a failure Redis is left alone for this long.
STORE_REST_SECONDS: Final = 1.0
LOG_WAIT_SECONDS: Final = 0.25

OF_TEMPLATE: Final = frozenset({TemplateExhausted.code})
OF_USER: Final = frozenset({UserLimitReached.code, PeriodLimitReached.code})


class HintStore(Protocol):
    """Where processes tell each other; it may be slow, lose or refuse everything."""

    async def read(self, keys: Collection[HintKey]) -> Mapping[HintKey, SharedHint]:
        """The hints among these keys."""
        ...

    async def write(self, hints: Mapping[HintKey, SharedHint], forgotten: Collection[HintKey]) -> None:
        """Tell, and take back."""
        ...


class HintObserver(Protocol):
    """Whoever counts hints."""

    def hint_given(self, code: str) -> None:
        """A claim was answered with a hint."""
        ...

    def hint_store_failed(self) -> None:
        """Redis did not answer in time, or not at all."""
        ...


class _Hint(NamedTuple):
    code: str
    until: float
    is_ours: bool  # This process heard it from the engine itself.


@dataclass(slots=True)
class _Template:
    """What is known of one template's refusals. A hint that ended is kept: it says who is to be asked next."""

    interest_until: float
    deaf_until: float = 0.0  # What others still say is older than a change that we know of.
    exhausted: _Hint | None = None
    users: OrderedDict[str, _Hint] = field(default_factory=OrderedDict)

    def code_for(self, user_id: str, now: float) -> str | None:
        """What holds now."""
        for hint in (self.exhausted, self.users.get(user_id)):
            if hint is not None and hint.until > now:
                return hint.code
        return None

    def asks_others(self, user_id: str, now: float) -> bool:
        """Whether others may know more; after having believed them, the engine comes first."""
        if not self.deaf_until <= now < self.interest_until:
            return False
        return all(hint is None or hint.is_ours for hint in (self.exhausted, self.users.get(user_id)))

    def knows_better(self, user_id: str | None, since: float) -> bool:
        """Whether the engine said something while others were asked."""
        hint = self.exhausted if user_id is None else self.users.get(user_id)
        return hint is not None and hint.is_ours and hint.until > since

    def note(self, user_id: str | None, hint: _Hint) -> None:
        if user_id is None:
            self.exhausted = hint
            return
        self.users[user_id] = hint
        self.users.move_to_end(user_id)


class _Known:
    """All templates of which refusals were heard. Beyond a bound the one that was silent longest is forgotten first."""

    def __init__(self, users_max: int) -> None:
        self._users_max = users_max
        self._users = 0
        self._templates: OrderedDict[tuple[Realm, str], _Template] = OrderedDict()

    def get(self, realm: Realm, template_id: str) -> _Template | None:
        """What is known of a template, if anything."""
        return self._templates.get((realm, template_id))

    def refused(self, realm: Realm, template_id: str) -> _Template:
        """The same, of a template of which a refusal is heard now."""
        about = (realm, template_id)
        template = self._templates.get(about)
        if template is None:
            template = self._templates[about] = _Template(interest_until=0.0)
            if len(self._templates) > TEMPLATES_MAX:
                self._forget_template()
        self._templates.move_to_end(about)
        return template

    def note(self, template: _Template, user_id: str | None, hint: _Hint) -> None:
        """Keep a hint, and as many others as there is room for."""
        before = len(template.users)
        template.note(user_id, hint)
        self._users += len(template.users) - before
        while self._users > self._users_max:
            silent = next(iter(self._templates.values()))
            if silent.users:
                silent.users.popitem(last=False)
                self._users -= 1
            else:
                self._forget_template()

    def forget_user(self, template: _Template, user_id: str) -> bool:
        """Forget what is known of one user; whether there was anything."""
        known = template.users.pop(user_id, None) is not None
        self._users -= known
        return known

    def forget_users(self, template: _Template) -> None:
        """Forget all its users."""
        self._users -= len(template.users)
        template.users.clear()

    def _forget_template(self) -> None:
        _, silent = self._templates.popitem(last=False)
        self._users -= len(silent.users)


class ClaimHints:
    """Foresees refusals, on one event loop. ``logged`` says which of these ids are in the command log."""

    def __init__(
        self,
        seconds: float,
        logged: Callable[[Collection[CommandKey]], Awaitable[Mapping[CommandKey, Any]]],
        store: HintStore,
        observer: HintObserver,
        *,
        store_wait_seconds: float = STORE_WAIT_SECONDS,
        users_max: int = USERS_MAX,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._seconds = seconds
        self._log = Gathering(logged, LOG_WAIT_SECONDS)
        self._store = store
        self._others = Gathering(store.read, store_wait_seconds)
        self._observer = observer
        self._now = now
        self._known = _Known(users_max)
        self._hinted: OrderedDict[CommandKey, None] = OrderedDict()
        self._rests_until = 0.0
        self._unsent: dict[HintKey, _Hint | None] = {}
        self._sending: asyncio.Task[None] | None = None

    async def foresee(self, envelope: CommandEnvelope, *, is_new: bool) -> str | None:
        """The code with which the engine would refuse this claim; None: ask it. ``is_new``: nobody can know the id."""
        command = envelope.command
        if not isinstance(command, ClaimCoupon):
            return None
        about = (envelope.realm, command.template_id)
        template = self._known.get(*about)
        if template is None:
            return None
        now = self._now()
        code = template.code_for(command.user_id, now)
        if code is None and now >= self._rests_until and template.asks_others(command.user_id, now):
            await self._ask_others(HintKey(*about), HintKey(*about, command.user_id))
            code = template.code_for(command.user_id, self._now())
        if code is None:
            return None
        key = CommandKey(envelope.realm, envelope.command_id)
        if not is_new:
            if await self._may_be_decided(key):
                return None
            code = template.code_for(command.user_id, self._now())  # Looking took a while.
        if code is not None:
            self._observer.hint_given(code)
            self._hinted[key] = None
            if len(self._hinted) > IDS_REMEMBERED_MAX:
                self._hinted.popitem(last=False)
        return code

    def heard(self, envelope: CommandEnvelope, answer: Answer) -> None:
        """What the engine said: the source of all hints, and their end. A replayed answer says nothing of today."""
        if answer.replayed:
            return
        command: Any = envelope.command
        if isinstance(command, ClaimCoupon):
            if answer.accepted:
                self._accepted(envelope.realm, command)
            else:
                self._refused(envelope.realm, command, answer.code)
        elif answer.accepted and (template_id := getattr(command, "template_id", None)) is not None:
            self._changed(envelope.realm, template_id)

    # What the engine's answers mean.

    def _refused(self, realm: Realm, command: ClaimCoupon, code: str) -> None:
        if code not in OF_TEMPLATE | OF_USER:
            return
        now, about = self._now(), (realm, command.template_id)
        template = self._known.refused(*about)
        template.interest_until = now + INTEREST_SECONDS
        user_id = command.user_id if code in OF_USER else None
        hint = _Hint(code, now + self._seconds, is_ours=True)
        self._known.note(template, user_id, hint)
        self._tell(HintKey(*about, user_id), hint)

    def _accepted(self, realm: Realm, command: ClaimCoupon) -> None:
        about = (realm, command.template_id)
        if (template := self._known.get(*about)) is None:
            return
        if template.exhausted is not None:
            template.exhausted = None
            self._tell(HintKey(*about), None)
        if self._known.forget_user(template, command.user_id):
            self._tell(HintKey(*about, command.user_id), None)

    def _changed(self, realm: Realm, template_id: str) -> None:
        if (template := self._known.get(realm, template_id)) is None:
            return
        template.exhausted = None
        self._known.forget_users(template)
        template.deaf_until = self._now() + self._seconds
        self._tell(HintKey(realm, template_id), None)

    async def _may_be_decided(self, key: CommandKey) -> bool:
        """Whether this id's answer may exist, or its caller insists."""
        if key in self._hinted:
            return True
        try:
            return key in await self._log.find((key,))
        except Exception:  # noqa: BLE001 - whatever hinders the look-up, the engine knows.
            return True

    # What other processes know.

    async def _ask_others(self, *keys: HintKey) -> None:
        asked_at = self._now()
        try:
            told = await self._others.find(keys)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with Redis, claims go on without it.
            self._rest(error)
            return
        for key in keys:
            hint = told.get(key)
            codes = OF_TEMPLATE if key.user_id is None else OF_USER
            template = self._known.get(key.realm, key.template_id)
            # Whatever is not as we would have written it is not believed.
            if hint is None or template is None or hint.code not in codes or not 0 < hint.seconds <= self._seconds:
                continue
            if template.deaf_until <= asked_at and not template.knows_better(key.user_id, asked_at):
                self._known.note(template, key.user_id, _Hint(hint.code, asked_at + hint.seconds, is_ours=False))

    def _tell(self, key: HintKey, hint: _Hint | None) -> None:
        """Let the others know soon; whoever claims does not wait for it."""
        if self._now() < self._rests_until or len(self._unsent) >= UNSENT_MAX:
            return
        self._unsent[key] = hint
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._unsent:
                unsent, self._unsent = self._unsent, {}
                now = self._now()
                hints = {key: SharedHint(hint.code, hint.until - now) for key, hint in unsent.items() if hint}
                hints = {key: hint for key, hint in hints.items() if hint.seconds > 0}
                async with asyncio.timeout(STORE_WRITE_SECONDS):
                    await self._store.write(hints, [key for key, hint in unsent.items() if hint is None])
        except Exception as error:  # noqa: BLE001 - as above.
            self._rest(error)
        finally:
            self._sending = None

    def _rest(self, error: Exception) -> None:
        """Leave Redis alone for a while."""
        now = self._now()
        if now >= self._rests_until:
            logger.warning("hint_store_left_alone", seconds=STORE_REST_SECONDS, why=type(error).__name__)
        self._rests_until = now + STORE_REST_SECONDS
        self._unsent.clear()
        self._observer.hint_store_failed()
