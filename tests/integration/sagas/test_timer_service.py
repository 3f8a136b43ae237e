"""The clock of the sagas: due timers fire in bulk, by their realm's own time, and once in effect."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta

import pytest

from contracts.commands import ClaimCoupon, LockCoupon, ReleaseCoupon, RevokeCoupon, ShortenTemplate
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.terms import FixedValidity, ValidityAfterClaim
from infra.postgres.epoch import bump_epoch
from infra.sagas.checkpoints import At
from infra.sagas.settings import SagaSettings
from infra.sagas.timer_service import TimerService
from tests.engines import Corners
from tests.integration.sagas.world import NOON, PATIENT, Lost, Store, World, hear_all


@pytest.fixture
def store(corners: Corners) -> Iterator[Store]:
    """A store of one's own: what is due for others would fire, too."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


def timers(world: World) -> list[tuple[str, datetime]]:
    rows = world.rows("SELECT kind, due_at FROM timers WHERE tenant_id = %s ORDER BY kind", world.realm.tenant_id)
    return [(row["kind"], row["due_at"]) for row in rows]


def test_a_template_opens_and_closes_with_its_window(world: World) -> None:
    world.template(claim_from=NOON + timedelta(hours=1), claim_until=NOON + timedelta(hours=2)).settle()
    assert world.types("template", "ten-off") == ["created", "activated"]
    world.later(minutes=59).settle()
    assert world.types("template", "ten-off")[-1] == "activated"
    world.later(minutes=1).settle()
    assert world.types("template", "ten-off")[-1] == "opened"
    world.later(hours=1).settle()
    assert world.types("template", "ten-off")[-1] == "ended"
    assert timers(world) == []


def test_a_shortened_template_closes_earlier_and_once(world: World) -> None:
    world.template().settle()
    world.tell(ShortenTemplate(template_id="ten-off", claim_until=NOON + timedelta(hours=1))).settle()
    world.later(hours=1).settle()
    world.later(days=60).settle()
    assert world.types("template", "ten-off").count("ended") == 1


def test_a_timer_found_before_a_restore_fires_when_it_is_found_after_it(world: World) -> None:
    world.template(claim_from=NOON + timedelta(hours=1)).settle()
    world.later(hours=1)
    hear_all(world)
    fired: list[bool] = []

    def restore(at: At) -> None:
        if at is At.TIMERS_READ and not fired:
            bump_epoch(world.store.dsn, 0)
        if at is At.TIMERS_SETTLED:
            fired.append(world.types("template", "ten-off")[-1] == "opened")

    clock = TimerService(world.store.sagas(), world.store.engine, PATIENT, checkpoint=restore)
    while clock.run_once():
        pass
    assert fired == [False, True]


def test_a_claimed_coupon_expires_at_the_end_of_its_validity(world: World) -> None:
    world.template().claim().settle()
    world.later(days=7, seconds=-1).settle()
    assert world.coupon() == "claimed"
    world.later(seconds=1).settle()
    assert world.coupon() == "expired"


def test_a_revoked_coupon_does_not_expire(world: World) -> None:
    world.template().claim().tell(RevokeCoupon(coupon_id=world.coupons["c"], reason="fraud")).settle()
    assert "coupon_expiry" not in dict(timers(world))


def test_a_coupon_returned_by_a_refund_expires_when_it_would_have(world: World) -> None:
    world.template().claim().place().pay().refund().settle()
    assert world.coupon() == "returned"
    world.later(days=7).settle()
    assert world.coupon() == "expired"


def test_an_external_lock_ends_by_itself_and_the_coupon_expires_later(world: World) -> None:
    world.template().claim()
    world.tell(LockCoupon(coupon_id=world.coupons["c"], order_id="theirs", lock_seconds=60)).settle()
    assert dict(timers(world))["coupon_lock_end"] == NOON + timedelta(minutes=1)
    world.later(minutes=1).settle()
    assert world.coupon() == "released"
    world.later(days=7).settle()
    assert world.coupon() == "expired"


def test_an_external_lock_that_was_given_up_has_no_end(world: World) -> None:
    world.template().claim()
    world.tell(LockCoupon(coupon_id=world.coupons["c"], order_id="theirs", lock_seconds=60))
    world.tell(ReleaseCoupon(coupon_id=world.coupons["c"], order_id="theirs")).settle()
    assert "coupon_lock_end" not in dict(timers(world))


def test_an_expiry_that_fires_for_a_coupon_that_was_just_locked_does_no_harm(world: World) -> None:
    world.template().claim().settle()
    world.later(days=7, minutes=-10)
    world.tell(LockCoupon(coupon_id=world.coupons["c"], order_id="theirs", lock_seconds=3_600))
    world.later(minutes=10)
    # The clock knows the time already, the ear has not heard of the lock yet.
    world.store.connection.execute("UPDATE realm_clocks SET shows = %s", (world.now,))
    fire = TimerService(world.store.sagas(), world.store.engine, PATIENT)
    assert fire.run_once() == 1
    fire.close()
    assert world.coupon() == "locked"
    world.later(hours=1).settle()
    assert world.types("coupon", world.coupons["c"])[-2:] == ["released", "expired"]


def test_each_realm_lives_by_its_own_clock(store: Store) -> None:
    early, late = World(store), World(store)
    early.template().claim()
    late.template().claim().later(days=8)
    early.settle()
    assert (early.coupon(), late.coupon()) == ("claimed", "expired")
    early.close()
    late.close()


def test_a_realm_without_a_business_clock_lives_by_the_stores(store: Store) -> None:
    world = World(store)
    world.realm = Realm("wall", "clock")
    now = datetime.now(UTC)
    world.template(claim_from=now - timedelta(days=1), claim_until=now + timedelta(days=1))
    validity = FixedValidity(valid_from=now - timedelta(days=1), valid_until=now + timedelta(seconds=2))
    world.template("short", claim_from=now - timedelta(days=1), claim_until=now + timedelta(days=1), validity=validity)
    world.claim("lasting").claim("short", template="short")
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    while world.coupon("short") != "expired" and datetime.now(UTC) < deadline:
        world.settle()
    assert (world.coupon("short"), world.coupon("lasting")) == ("expired", "claimed")
    world.close()


def test_thousands_at_one_midnight_are_worked_off_in_bounded_batches(world: World) -> None:
    count = 3_000
    midnight = NOON + timedelta(hours=12)
    world.template(validity=FixedValidity(valid_from=NOON, valid_until=midnight))
    claims = [
        CommandEnvelope(world.realm, f"claim-{n}", ClaimCoupon(template_id="ten-off", user_id=f"u{n}"), "test", "test")
        for n in range(count)
    ]
    assert all(future.result(60).accepted for future in world.store.engine.submit_many(claims))
    world.settle().later(hours=12)
    fire = TimerService(world.store.sagas(), world.store.engine, SagaSettings(timers_max=1_000))
    assert fire.run_once() == 0, "the ear has not heard yet that it is midnight"
    world.settle_ear()
    assert [fire.run_once() for _ in range(4)] == [1_000, 1_000, 1_000, 0]
    fire.close()
    assert world.rows("SELECT count(*) AS n FROM events WHERE type = 'coupon.expired.v1'") == [{"n": count}]
    world.settle()
    assert world.rows("SELECT count(*) AS n FROM events WHERE type = 'coupon.expired.v1'") == [{"n": count}]


def test_a_realm_with_thousands_due_leaves_room_for_the_others(store: Store) -> None:
    crowded, small = World(store), World(store)
    crowded.template(validity=ValidityAfterClaim(duration_seconds=60))
    for number in range(30):
        crowded.claim(f"c{number}", user=f"u{number}")
    small.template(validity=ValidityAfterClaim(duration_seconds=60)).claim()
    crowded.settle().later(minutes=1)
    small.later(minutes=1)
    small.settle_ear()
    fire = TimerService(store.sagas(), store.engine, SagaSettings(timers_max=10))
    assert fire.run_once() == 6, "five of the crowd, one of the other"
    fire.close()
    assert small.coupon() == "expired"
    crowded.close()
    small.close()


def test_a_timer_without_an_answer_fires_again(world: World) -> None:
    class Silent:
        def submit_many(self, envelopes: Iterable[CommandEnvelope]) -> list[Future[Answer]]:
            return [Lost() for _ in envelopes]

    world.template().claim().settle()
    world.later(days=7).settle_ear()
    silent = TimerService(
        world.store.sagas(),
        Silent(),
        SagaSettings(answer_wait_seconds=0.01, retry_seconds_first=0, retry_seconds_max=0),
    )
    assert silent.run_once() == 1
    silent.close()
    (timer,) = world.rows("SELECT attempts, last_error FROM timers WHERE kind = 'coupon_expiry'")
    assert timer == {"attempts": 1, "last_error": "TimeoutError"}
    world.settle()
    assert world.coupon() == "expired"


def test_an_order_whose_lock_ends_is_let_go_even_when_the_clock_jumps_over_a_week(world: World) -> None:
    world.template().claim().place().settle()
    world.later(days=30).settle()
    assert world.step() == "released"
    assert world.types("coupon", world.coupons["c"])[-2:] == ["released", "expired"]
    (released,) = world.rows("SELECT data FROM events WHERE type = 'checkout.released.v1'")
    assert datetime.fromisoformat(released["data"]["released_at"]) == NOON + timedelta(minutes=15)
