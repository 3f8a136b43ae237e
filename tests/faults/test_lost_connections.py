"""The line to PostgreSQL fails around a commit, or in the middle of a word: no effect is lost, none is there twice."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from command.ports import StoreUnavailable
from contracts.envelope import Answer, CommandEnvelope
from tests.audit import Acknowledged, audit, violations
from tests.builders import REALM, claim
from tests.faults.conftest import IMPATIENT, engine_on
from tests.faults.shop import sold
from tests.faults.wire import Wire

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("either_kind")]

BATCH = 32  # As many as an engine takes at once, however few wait.

Cut = Callable[..., None]
CUTS = pytest.mark.parametrize("cut", [Wire.cut_before_next_commit, Wire.cut_after_next_commit])


@pytest.fixture
def wire(shop: str) -> Iterator[Wire]:
    """A wire to the shop."""
    with Wire(shop, mark="coupon.claimed.v1") as wire:
        yield wire


def claims(first: int, count: int = BATCH) -> list[CommandEnvelope]:
    """Claims of the hot coupon by as many users."""
    return [
        CommandEnvelope(REALM, f"claim-{number}", claim(f"u{number}", "hot"), "tester", f"claim-{number}")
        for number in range(first, first + count)
    ]


def told(envelopes: list[CommandEnvelope], answers: list[Answer]) -> list[Acknowledged]:
    """As the audit wants them."""
    return [
        Acknowledged.of(each.realm, each.command_id, answer)
        for each, answer in zip(envelopes, answers, strict=True)
    ]  # fmt: skip


@CUTS
def test_a_batch_whose_commit_was_cut_off_is_done_once_and_its_callers_notice_nothing(
    shop: str, wire: Wire, cut: Cut
) -> None:
    with engine_on(wire.dsn) as engine:
        engine.execute(claims(0, 1)[0])
        cut(wire)
        batch = claims(1)
        answers = [future.result(30) for future in engine.submit_many(batch)]
    assert wire.happened.is_set()
    assert all(answer.accepted and not answer.replayed for answer in answers)
    assert sold(shop) == 1 + BATCH
    assert audit(shop, told(batch, answers)) == []
    assert violations(shop) == []


@CUTS
def test_whoever_is_told_that_the_outcome_is_unknown_learns_it_by_asking_again(shop: str, wire: Wire, cut: Cut) -> None:
    batch = claims(1)
    with engine_on(wire.dsn, timeouts=IMPATIENT) as engine:
        engine.execute(claims(0, 1)[0])
        cut(wire, and_unplug=True)  # Nor can anybody look whether it was done.
        futures = engine.submit_many(batch)
        for future in futures:
            with pytest.raises(StoreUnavailable):
                future.result(30)
        assert wire.happened.is_set()
        was_done = sold(shop) == 1 + BATCH
        assert was_done is (cut is Wire.cut_after_next_commit)
        wire.plug()
        answers = [future.result(30) for future in engine.submit_many(batch)]
    assert {answer.replayed for answer in answers} == {was_done}
    assert sold(shop) == 1 + BATCH
    assert audit(shop, told(batch, answers)) == []
    assert violations(shop) == []


def test_a_line_that_goes_silent_under_the_append_lock_holds_up_nobody_for_good(shop: str, wire: Wire) -> None:
    before, batch, others = claims(0, 2), claims(2), claims(2 + BATCH)
    with engine_on(wire.dsn, timeouts=IMPATIENT) as unlucky, engine_on(shop) as other:
        unlucky.execute(before[0])
        other.execute(before[1])  # Somebody else appends: now it has to decide under the lock.
        wire.fall_silent_in_next_append()
        futures = unlucky.submit_many(batch)
        assert wire.happened.wait(30)
        assert is_locked(shop), "the silence came too early to hurt anybody"
        answers = [future.result(30) for future in other.submit_many(others)]
        late = [ask_until_answered(envelope, unlucky.execute) for envelope in batch]
        for future in futures:
            future.exception(30)  # An answer or a StoreUnavailable: which of the two depends on who was faster.
    assert sold(shop) == len(before) + 2 * BATCH
    assert audit(shop, told(batch + others, late + answers)) == []
    assert violations(shop) == []


def ask_until_answered(envelope: CommandEnvelope, execute: Callable[[CommandEnvelope], Answer]) -> Answer:
    """As a patient caller does."""
    for _ in range(20):
        try:
            return execute(envelope)
        except StoreUnavailable:
            continue
    raise AssertionError(f"{envelope.command_id} was never answered")


def is_locked(dsn: str) -> bool:
    """Whether anybody holds the append lock of this database."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        row = admin.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
        ).fetchone()
    return row is not None and row[0] > 0
