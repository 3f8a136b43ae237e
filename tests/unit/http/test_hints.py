"""Hints: refusals that are foreseen, never stored, never final, never in anybody's way for long."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from command.handlers import HANDLERS
from command.ports import CommandKey, LoggedAnswer, StoreUnavailable
from contracts.commands import ClaimCoupon, IncreaseTemplateStock
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.position import Position
from infra.http.hints import INTEREST_SECONDS, ClaimHints
from infra.redis.hints import HintKey, SharedHint
from infra.telemetry.metrics import Metrics
from tests.fakes import InMemoryEventLog
from tests.unit.http.conftest import World, caller, edge

SECONDS = 1.0
CLAIMS = "/v1/templates/t1/claims"
TERMS: dict[str, Any] = {
    "name": "Ten off",
    "campaign_id": "spring",
    "currency": "EUR",
    "discount": {"kind": "amount_off", "amount_minor": 1_000},
    "claim_from": "2020-01-01T00:00:00Z",
    "claim_until": "2100-01-01T00:00:00Z",
    "validity": {"kind": "after_claim", "duration_seconds": 86_400},
    "claims_per_user_max": 1,
}


@dataclass
class Clock:
    """Time that a test moves."""

    at: float = 1_000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Shared:
    """Redis, as far as hints need it, on the test's clock."""

    clock: Clock
    held: dict[HintKey, tuple[str, float]] = field(default_factory=dict)
    reads: int = 0

    async def read(self, keys: Collection[HintKey]) -> Mapping[HintKey, SharedHint]:
        self.reads += 1
        left = {
            key: SharedHint(self.held[key][0], self.held[key][1] - self.clock()) for key in keys if key in self.held
        }
        return {key: hint for key, hint in left.items() if hint.seconds > 0}

    async def write(self, hints: Mapping[HintKey, SharedHint], forgotten: Collection[HintKey]) -> None:
        for key in forgotten:
            self.held.pop(key, None)
        self.held.update({key: (hint.code, self.clock() + hint.seconds) for key, hint in hints.items()})


class Away(Shared):
    """Nobody answers the phone."""

    async def read(self, keys: Collection[HintKey]) -> Mapping[HintKey, SharedHint]:
        self.reads += 1
        raise ConnectionError("away")

    async def write(self, hints: Mapping[HintKey, SharedHint], forgotten: Collection[HintKey]) -> None:
        raise ConnectionError("away")


class Slow(Shared):
    """It takes everything in and says nothing."""

    async def read(self, keys: Collection[HintKey]) -> Mapping[HintKey, SharedHint]:
        self.reads += 1
        await asyncio.Event().wait()
        return {}

    async def write(self, hints: Mapping[HintKey, SharedHint], forgotten: Collection[HintKey]) -> None:
        await asyncio.Event().wait()


class Flushed(Shared):
    """It forgets at once."""

    async def write(self, hints: Mapping[HintKey, SharedHint], forgotten: Collection[HintKey]) -> None:
        return


class Lying(Shared):
    """It says that everything is sold out, for as long as a hint may hold."""

    async def read(self, keys: Collection[HintKey]) -> Mapping[HintKey, SharedHint]:
        self.reads += 1
        codes = {key: "template_exhausted" if key.user_id is None else "user_limit_reached" for key in keys}
        return {key: SharedHint(code, SECONDS) for key, code in codes.items()}


class Babbling(Shared):
    """It says what no process of ours would have written."""

    async def read(self, keys: Collection[HintKey]) -> Mapping[HintKey, SharedHint]:
        self.reads += 1
        nonsense = (SharedHint("sold_out", SECONDS), SharedHint("paused", SECONDS))
        too_long = SharedHint("template_exhausted", 86_400.0)
        return {key: too_long if key.user_id is None else nonsense[len(key.user_id) % 2] for key in keys}


@dataclass
class Process:
    """One API process: its edge, its hints, and a caller."""

    world: World
    client: httpx.AsyncClient
    hints: ClaimHints | None

    async def claim(self, user: str, key: str | None = None, **query: str) -> httpx.Response:
        """One request."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.client.post(CLAIMS, json={"user_id": user}, headers=headers, params=query)

    async def finally_claim(self, user: str, key: str) -> httpx.Response:
        """Ask until somebody decided."""
        for _ in range(3):
            response = await self.claim(user, key)
            if not response.json().get("hint"):
                return response
        raise AssertionError("nobody decides")

    def hints_given(self) -> float:
        """As the metrics tell it."""
        samples = [each for family in self.world.metrics.registry.collect() for each in family.samples]
        return sum(each.value for each in samples if each.name == "tessera_claim_hints_total")


@dataclass
class Stage:
    """Makes processes on one store."""

    exits: AsyncExitStack
    clock: Clock = field(default_factory=Clock)
    log: InMemoryEventLog = field(default_factory=InMemoryEventLog)
    log_fails: bool = False

    async def process(self, shared: Shared | None = None, *, hints: bool = True) -> Process:
        made: list[ClaimHints] = []

        def make(log: InMemoryEventLog, metrics: Metrics) -> ClaimHints | None:
            async def logged(keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
                if self.log_fails:
                    raise StoreUnavailable("away")
                with log.reading() as view:
                    return view.answers(keys)

            if hints:
                store = shared or Shared(self.clock)
                made.append(ClaimHints(SECONDS, logged, store, metrics, store_wait_seconds=0.05, now=self.clock))
            return made[0] if made else None

        world = self.exits.enter_context(edge(self.log, HANDLERS, make))
        client = await self.exits.enter_async_context(caller(world))
        return Process(world, client, made[0] if made else None)

    async def with_template(self, shared: Shared | None = None, *, hints: bool = True, **terms: Any) -> Process:
        """A process, and an active template in the store."""
        process = await self.process(shared, hints=hints)
        body = {"template_id": "t1", "terms": {**TERMS, **terms}}
        (await process.client.post("/v1/templates", json=body)).raise_for_status()
        (await process.client.post("/v1/templates/t1/activate")).raise_for_status()
        return process

    @property
    def stored(self) -> int:
        """How many answers are in the command log."""
        return len(self.log._state.answers)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """An empty store."""
    async with AsyncExitStack() as exits:
        yield Stage(exits)


async def settled() -> None:
    """Until what was sent to the others in the background has arrived."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_after_one_refusal_the_next_are_told_at_once_and_nothing_of_it_is_stored(stage: Stage) -> None:
    api = await stage.with_template(stock=0)
    refused = await api.claim("ann", "k1")
    assert (refused.status_code, refused.json()["retryable"], "hint" in refused.json()) == (409, False, False)
    stored = stage.stored
    hinted = await api.claim("bob", "k2")
    told = hinted.json()
    assert (hinted.status_code, told["code"], told["hint"], told["retryable"]) == (
        409,
        "template_exhausted",
        True,
        True,
    )
    assert hinted.headers["retry-after"] == "1"
    assert (hinted.headers["idempotency-key"], "position" in told) == ("k2", False)
    assert stage.stored == stored
    assert api.hints_given() == 1


async def test_who_insists_gets_a_final_answer(stage: Stage) -> None:
    api = await stage.with_template(stock=0)
    await api.claim("ann", "k1")
    assert (await api.claim("bob", "k2")).json()["hint"]
    final = await api.claim("bob", "k2")
    assert (final.json()["code"], "hint" in final.json()) == ("template_exhausted", False)
    # The same holds for the id that we made: the hint told it.
    hinted = await api.claim("cid")
    final = await api.claim("cid", hinted.headers["idempotency-key"])
    assert "hint" not in final.json()


async def test_an_accepted_claim_asked_again_gets_its_stored_answer_whatever_hints_say(stage: Stage) -> None:
    api = await stage.with_template(stock=1)
    first = await api.claim("ann", "k1")
    assert first.status_code == 201
    assert (await api.claim("bob", "k2")).json()["code"] == "template_exhausted"
    assert (await api.claim("bob", "k3")).json()["hint"]
    again = await api.claim("ann", "k1")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json()["data"] == first.json()["data"]
    # The refused one, too, gets what was stored.
    assert (await api.claim("bob", "k2")).headers["idempotency-replayed"] == "true"


async def test_without_a_look_into_the_command_log_nobody_is_hinted_at(stage: Stage) -> None:
    api = await stage.with_template(stock=0)
    await api.claim("ann", "k1")
    stage.log_fails = True
    assert "hint" not in (await api.claim("bob", "k2")).json()
    assert (await api.claim("bob")).json()["hint"]  # An id that we made a moment ago is in no log.


async def test_a_users_limit_is_nobody_elses_business(stage: Stage) -> None:
    api = await stage.with_template()
    assert (await api.claim("ann")).status_code == 201
    assert "hint" not in (await api.claim("ann")).json()
    hinted = (await api.claim("ann")).json()
    assert (hinted["code"], hinted["hint"]) == ("user_limit_reached", True)
    assert (await api.claim("bob")).status_code == 201


async def test_the_same_names_of_another_tenant_are_other_things(stage: Stage) -> None:
    api = await stage.with_template(stock=0)
    await api.claim("ann")
    async with caller(api.world, "globex") as other:
        response = await other.post(CLAIMS, json={"user_id": "ann"})
    assert response.json()["code"] == "unknown_template"


async def test_dry_runs_and_batches_are_always_decided(stage: Stage) -> None:
    api = await stage.with_template(stock=0)
    await api.claim("ann")
    assert "hint" not in (await api.claim("bob", dry_run="true")).json()
    body = {"commands": [{"type": "claim_coupon", "data": {"template_id": "t1", "user_id": "bob"}}]}
    (answer,) = (await api.client.post("/v1/commands", json=body)).json()["answers"]
    assert (answer["code"], "hint" in answer) == ("template_exhausted", False)


async def test_a_batch_s_refusals_and_changes_are_heard_like_any(stage: Stage) -> None:
    api = await stage.with_template(stock=0)
    claim = {"type": "claim_coupon", "data": {"template_id": "t1", "user_id": "ann"}}
    await api.client.post("/v1/commands", json={"commands": [claim]})
    assert (await api.claim("bob")).json()["hint"]
    more = {"type": "increase_template_stock", "data": {"template_id": "t1", "by": 1}}
    await api.client.post("/v1/commands", json={"commands": [more]})
    assert (await api.claim("bob")).status_code == 201


async def test_what_makes_room_ends_the_hint_at_once_where_it_is_heard(stage: Stage) -> None:
    api = await stage.with_template(stock=1)
    reserve = {"reservation_id": "r1", "user_id": "vip", "quantity": 1}
    (await api.client.post("/v1/templates/t1/reserve", json=reserve)).raise_for_status()
    await api.claim("ann")
    assert (await api.claim("ann")).json()["hint"]
    (await api.client.post("/v1/templates/t1/cancel", json={"reservation_id": "r1"})).raise_for_status()
    assert (await api.claim("ann")).status_code == 201
    await api.claim("bob")
    assert (await api.claim("bob")).json()["hint"]
    (await api.client.post("/v1/templates/t1/increase-stock", json={"by": 5})).raise_for_status()
    assert (await api.claim("bob")).status_code == 201


async def test_a_revised_limit_lets_the_user_through_at_once(stage: Stage) -> None:
    api = await stage.with_template()
    await api.claim("ann")
    await api.claim("ann")
    assert (await api.claim("ann")).json()["hint"]
    revised = {"terms": {**TERMS, "claims_per_user_max": 2}}
    (await api.client.post("/v1/templates/t1/revise", json=revised)).raise_for_status()
    assert (await api.claim("ann")).status_code == 201


async def test_another_process_changed_it_and_the_claim_gets_through_once_the_hint_has_ended(stage: Stage) -> None:
    here = await stage.with_template(Flushed(stage.clock), stock=0)
    there = await stage.process(Flushed(stage.clock))
    await here.claim("ann")
    (await there.client.post("/v1/templates/t1/increase-stock", json={"by": 1})).raise_for_status()
    assert (await here.claim("bob")).json()["hint"]
    stage.clock.at += SECONDS
    assert (await here.claim("bob")).status_code == 201


async def test_a_hint_from_the_others_ends_when_theirs_does(stage: Stage) -> None:
    shared = Shared(stage.clock)
    here, there = await stage.with_template(shared), await stage.process(shared)
    assert (await here.claim("ann")).status_code == 201
    assert (await here.claim("bob")).status_code == 201
    assert "hint" not in (await here.claim("ann")).json()  # Here refusals of this template have been seen.
    assert "hint" not in (await there.claim("bob")).json()  # There, too; and bob's is shared.
    await settled()
    stage.clock.at += 0.75 * SECONDS
    assert (await here.claim("bob")).json()["hint"]
    stage.clock.at += 0.25 * SECONDS
    stored = stage.stored
    assert "hint" not in (await here.claim("bob")).json()
    assert stage.stored == stored + 1


async def test_claims_of_a_template_without_refusals_never_ask_redis(stage: Stage) -> None:
    shared = Shared(stage.clock)
    api = await stage.with_template(shared)
    for number in range(5):
        assert (await api.claim(f"u{number}")).status_code == 201
    assert shared.reads == 0


@pytest.mark.parametrize("kind", [Away, Slow])
async def test_redis_away_or_silent_costs_one_short_wait_and_no_answer(stage: Stage, kind: type[Shared]) -> None:
    shared = kind(stage.clock)
    api = await stage.with_template(shared, stock=6)
    await api.claim("u0")
    await api.claim("u0")  # Refused: from now on others are asked.
    for number in range(1, 6):
        assert (await api.claim(f"u{number}")).status_code == 201
    await settled()
    assert shared.reads <= 1
    final = await api.finally_claim("late", "k-late")
    assert final.json()["code"] == "template_exhausted"
    stage.clock.at += SECONDS
    await api.claim("u1")
    assert shared.reads <= 2  # After a rest it is tried again.


@pytest.mark.parametrize("kind", [Lying, Babbling])
async def test_redis_that_talks_nonsense_holds_nobody_up_for_longer_than_two_hints(
    stage: Stage, kind: type[Shared]
) -> None:
    api = await stage.with_template(kind(stage.clock))
    await api.claim("ann")
    await api.claim("ann")  # Refused: from now on others are asked, and lie.
    started, response = stage.clock.at, await api.claim("bob")
    while response.status_code != 201:
        assert response.json()["hint"]
        stage.clock.at += SECONDS / 4
        response = await api.claim("bob")
    assert stage.clock.at - started <= (2 * SECONDS if kind is Lying else 0)


async def test_a_refusal_told_again_does_not_renew_the_hint(stage: Stage) -> None:
    here, there = await stage.with_template(stock=0), await stage.process()
    await here.claim("ann", "k1")
    (await there.client.post("/v1/templates/t1/increase-stock", json={"by": 1})).raise_for_status()
    stage.clock.at += 0.9 * SECONDS
    assert (await here.claim("ann", "k1")).headers["idempotency-replayed"] == "true"
    stage.clock.at += 0.1 * SECONDS
    assert (await here.claim("bob")).status_code == 201


@pytest.mark.parametrize("change", ["increase-stock", "revise"])
async def test_a_claim_that_is_accepted_ends_what_was_said_of_its_template_and_its_user(
    stage: Stage, change: str
) -> None:
    here, there = await stage.with_template(stock=1), await stage.process()
    await here.claim("ann")
    if change == "revise":
        (await here.client.post("/v1/templates/t1/increase-stock", json={"by": 5})).raise_for_status()
    user = "ann" if change == "revise" else "bob"
    await here.claim(user)
    assert (await here.claim(user)).json()["hint"]
    body = {"revise": {"terms": {**TERMS, "stock": 6, "claims_per_user_max": 5}}, "increase-stock": {"by": 5}}
    (await there.client.post(f"/v1/templates/t1/{change}", json=body[change])).raise_for_status()
    decided = {"commands": [{"type": "claim_coupon", "data": {"template_id": "t1", "user_id": user}}]}
    (answer,) = (await here.client.post("/v1/commands", json=decided)).json()["answers"]
    assert answer["status"] == "accepted"
    assert (await here.claim(user if change == "revise" else "cid")).status_code == 201


async def test_long_after_the_last_refusal_redis_is_not_asked_any_more(stage: Stage) -> None:
    shared = Shared(stage.clock)
    api = await stage.with_template(shared)
    await api.claim("ann")
    await api.claim("ann")
    await api.claim("bob")
    assert shared.reads == 1
    stage.clock.at += INTEREST_SECONDS
    await api.claim("cid")
    assert shared.reads == 1


async def test_a_hint_that_redis_still_holds_is_not_believed_after_a_change_that_we_made(stage: Stage) -> None:
    shared = Shared(stage.clock)
    api = await stage.with_template(shared, stock=0)
    await api.claim("ann")
    await settled()
    left = dict(shared.held)
    (await api.client.post("/v1/templates/t1/increase-stock", json={"by": 1})).raise_for_status()
    await settled()
    assert not shared.held  # Taken back …
    shared.held.update(left)  # … but the taking back got lost.
    assert (await api.claim("ann")).status_code == 201


@pytest.mark.parametrize("kind", [Shared, Away, Slow, Flushed, Lying, Babbling])
async def test_in_a_rush_exactly_the_stock_is_claimed_and_everybody_is_answered(
    stage: Stage, kind: type[Shared]
) -> None:
    shared = kind(stage.clock)
    processes = [await stage.with_template(shared, stock=20), await stage.process(shared)]

    async def user(number: int) -> httpx.Response:
        process = processes[number % 2]
        key = f"k{number}" if number % 3 else None
        response = await process.claim(f"u{number}", key)
        assert response.status_code in {201, 409}
        return response

    answers = await asyncio.gather(*(user(number) for number in range(400)))
    assert len(answers) == 400
    finals = await asyncio.gather(*(processes[n % 2].finally_claim(f"u{n}", f"k{n}") for n in range(400) if n % 3))
    accepted = [each for each in answers if each.status_code == 201]
    codes = Counter(each.json().get("code", "ok") for each in (*answers, *finals))
    assert set(codes) <= {"ok", "template_exhausted"} | ({"user_limit_reached"} if kind is Lying else set())
    late = [each for each in finals if each.status_code == 201 and "idempotency-replayed" not in each.headers]
    coupons = {each.json()["data"]["coupon_id"] for each in (*accepted, *late)}
    assert len(coupons) == len(accepted) + len(late) == 20


async def finals_of(stage: Stage, *, hints: bool) -> list[tuple[int, str, Any]]:
    """A small history, every step asked until it is decided."""
    api = await stage.with_template(Shared(stage.clock), hints=hints, stock=3, claims_per_user_max=2)
    told: list[tuple[int, str, Any]] = []

    async def claim(user: str, key: str) -> None:
        response = await api.finally_claim(user, key)
        body = response.json()
        data = {name: value for name, value in body["data"].items() if not name.startswith("valid")}
        told.append((response.status_code, body.get("code", "ok"), data))

    for number, user in enumerate(["ann", "ann", "ann", "ann", "bob", "bob", "cid", "ann", "cid"]):
        await claim(user, f"k{number}")
    (await api.client.post("/v1/templates/t1/increase-stock", json={"by": 2})).raise_for_status()
    for number, user in enumerate(["cid", "ann", "bob", "dan", "dan"]):
        await claim(user, f"m{number}")
    for number in range(9):  # All asked again.
        await claim(["ann", "ann", "ann", "ann", "bob", "bob", "cid", "ann", "cid"][number], f"k{number}")
    return told


async def test_with_hints_and_without_the_final_answers_are_the_same() -> None:
    async with AsyncExitStack() as exits:
        with_hints = await finals_of(Stage(exits), hints=True)
        without = await finals_of(Stage(exits), hints=False)
    assert with_hints == without


@dataclass
class Alone:
    """Hints of a process without others, told and asked directly; there is room for three users' hints."""

    hints: ClaimHints

    def hear(self, template_id: str, user_id: str) -> None:
        """The engine refused this user's claim."""
        self.hints.heard(_claim(template_id, user_id), _answer("user_limit_reached"))

    async def known(self, template_id: str, *user_ids: str) -> list[str]:
        """The users of whom a hint is given."""
        return [user for user in user_ids if await self.hints.foresee(_claim(template_id, user), is_new=True)]


def _claim(template_id: str, user_id: str) -> CommandEnvelope:
    command = ClaimCoupon(template_id=template_id, user_id=user_id)
    return CommandEnvelope(Realm("acme", "shop"), f"{template_id}-{user_id}", command, "ann", "c1")


def _answer(code: str) -> Answer:
    return Answer("accepted" if code == "ok" else "refused", code, "", {}, Position(0, "e", 1))


@pytest.fixture
async def alone() -> Alone:
    async def logged(_keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        return {}

    clock = Clock()
    return Alone(ClaimHints(SECONDS, logged, Flushed(clock), Metrics(), users_max=3, now=clock))


async def test_the_hints_of_all_templates_together_are_bounded_and_the_longest_silent_go_first(alone: Alone) -> None:
    for user in ("ann", "bob"):
        alone.hear("t1", user)
    for user in ("cid", "dan"):
        alone.hear("t2", user)
    assert await alone.known("t1", "ann", "bob") == ["bob"]
    assert await alone.known("t2", "cid", "dan") == ["cid", "dan"]
    for user in ("eve", "fay"):
        alone.hear("t3", user)
    assert await alone.known("t1", "ann", "bob") == []
    assert await alone.known("t2", "cid", "dan") == ["dan"]
    assert await alone.known("t3", "eve", "fay") == ["eve", "fay"]


async def test_hints_that_ended_make_room_for_others(alone: Alone) -> None:
    for user in ("ann", "bob", "cid"):
        alone.hear("t1", user)
    alone.hints.heard(_claim("t1", "ann"), _answer("ok"))
    alone.hear("t2", "dan")
    assert await alone.known("t1", "bob", "cid") == ["bob", "cid"]
    more = CommandEnvelope(Realm("acme", "shop"), "more", IncreaseTemplateStock(template_id="t1", by=1), "ann", "c1")
    alone.hints.heard(more, _answer("ok"))
    for user in ("eve", "fay"):
        alone.hear("t3", user)
    assert await alone.known("t2", "dan") == ["dan"]
    assert await alone.known("t3", "eve", "fay") == ["eve", "fay"]
