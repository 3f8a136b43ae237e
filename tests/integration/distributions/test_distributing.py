"""Distributions on real PostgreSQL: everybody once, whatever is paused, repeated or killed on the way."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest

from command.domain.ids import coupon_id
from command.engine import Engine, EngineSettings, HandlerFailed
from command.handlers import HANDLERS
from command.ports import StoreUnavailable
from contracts.commands import (
    CancelDistribution,
    ClaimCoupon,
    IssueDistributionChunk,
    LockCoupon,
    PauseDistribution,
    ReleaseCoupon,
    ResumeDistribution,
)
from contracts.envelope import Answer, CommandEnvelope
from contracts.refusals import AlreadyExists
from infra.distributions.runner import DistributionRunner, RunnerSettings, Work
from infra.postgres import distributions
from infra.postgres.connections import transaction
from infra.postgres.epoch import bump_epoch
from tests.integration.distributions.conftest import ACME, Shop

ROOT = Path(__file__).parents[3]


def users(count: int, prefix: str = "u") -> list[str]:
    return [f"{prefix}-{number:06d}" for number in range(count)]


def staged_chunks(shop: Shop) -> int:
    ((count,),) = shop.rows("SELECT count(*) FROM distribution_chunks")
    return int(count)


def test_everybody_on_the_list_gets_one_coupon_and_the_books_hold(shop: Shop) -> None:
    shop.template()
    assert shop.start(users(2_500)).data["status"] == "running"
    shop.run_to_the_end()
    assert shop.job().view() | {"staged_at": "", "changed_at": ""} == {
        "distribution_id": "d1",
        "template_id": "t1",
        "status": "completed",
        "users": 2_500,
        "decided": 2_500,
        "issued": 2_500,
        "refused": 0,
        "reason": None,
        "started_by": "key:merchant",
        "staged_at": "",
        "changed_at": "",
    }
    assert shop.holders() == users(2_500)
    assert shop.broken() == []


def test_its_list_is_deleted_once_it_is_over(shop: Shop) -> None:
    shop.template()
    shop.start(users(1_500))
    assert staged_chunks(shop) == 2
    shop.run_to_the_end()
    shop.run_to_the_end()
    assert staged_chunks(shop) == 0
    assert shop.rows("SELECT count(*) FROM distributions WHERE finished_at IS NULL") == [(0,)]


def test_those_refused_are_listed_in_order_with_their_reasons(shop: Shop) -> None:
    shop.template(stock=1_500)
    assert shop.do(ClaimCoupon(template_id="t1", user_id="u-000001")).accepted
    everybody = [*users(1_200), "u-000000", *users(300, "v"), "late"]
    shop.start(everybody)
    shop.run_to_the_end()
    refused = shop.refusals()
    assert refused == {
        2: ("u-000001", "user_limit_reached"),
        1_201: ("u-000000", "user_limit_reached"),
        1_502: ("late", "template_exhausted"),
    }
    assert list(refused) == sorted(refused)
    assert shop.job().view()["issued"] == 1_499
    assert shop.broken() == []


def test_a_pause_holds_before_the_next_chunk_and_a_resume_goes_on_with_it(shop: Shop) -> None:
    shop.template()
    shop.start(users(5_000))
    runner = shop.runner(chunks_per_turn=2)
    assert runner.run_once() == 2_000
    assert shop.do(PauseDistribution(distribution_id="d1", reason="wait")).accepted
    assert runner.run_once() == 0
    assert (shop.job().status, shop.job().reason, len(shop.holders())) == ("paused", "wait", 2_000)
    assert shop.do(ResumeDistribution(distribution_id="d1")).accepted
    shop.run_to_the_end()
    assert shop.holders() == users(5_000)
    assert shop.broken() == []
    runner.close()


def test_chunks_that_a_pause_refused_on_the_way_are_decided_after_the_resume(shop: Shop) -> None:
    shop.template()
    shop.start(users(3_000))
    runner = shop.runner()
    job = shop.job()
    stale = runner._state_of(job)
    assert shop.do(PauseDistribution(distribution_id="d1")).accepted
    assert (
        runner._send_chunks(Work(job, stale, shop.log.epoch)) == 1
    )  # Sent by a runner that has not heard of the pause.
    assert shop.do(ResumeDistribution(distribution_id="d1")).accepted
    shop.run_to_the_end()
    assert shop.holders() == users(3_000)
    runner.close()


def test_a_cancelled_distribution_issues_no_more_and_keeps_what_it_gave(shop: Shop) -> None:
    shop.template()
    shop.start(users(3_000))
    runner = shop.runner(chunks_per_turn=1)
    runner.run_once()
    assert shop.do(CancelDistribution(distribution_id="d1", reason="wrong list")).accepted
    while runner.run_once():
        pass
    assert (shop.job().status, len(shop.holders()), staged_chunks(shop)) == ("cancelled", 1_000, 0)
    assert shop.do(ResumeDistribution(distribution_id="d1")).code == "distribution_not_running"
    assert shop.broken() == []
    runner.close()


def test_two_runners_at_once_give_nobody_two(shop: Shop) -> None:
    shop.template(claims_per_user_max=None)
    shop.start(users(6_000))
    job, runners = shop.job(), [shop.runner(), shop.runner()]
    work = Work(job, runners[0]._state_of(job), shop.log.epoch)
    with ThreadPoolExecutor(2) as pool:  # Past the lock that keeps them apart.
        assert list(pool.map(lambda runner: runner._send_chunks(work), runners)) == [
            6_001,
            6_001,
        ]
    assert shop.holders() == users(6_000)
    assert shop.broken() == []
    for runner in runners:
        runner.close()


def test_only_one_runner_works_on_a_distribution(shop: Shop) -> None:
    shop.template()
    shop.start(users(1_000))
    runner = shop.runner()
    with psycopg.connect(shop.dsn) as other:
        assert distributions.try_lock(other.cursor(), shop.job())
        assert runner.run_once() == 0
        distributions.unlock(other.cursor(), shop.job())
    assert runner.run_once() == 1_000
    runner.close()


def test_a_distribution_whose_list_is_lost_pauses_and_says_from_which_row_on(shop: Shop) -> None:
    shop.template()
    shop.start(users(3_000))
    with psycopg.connect(shop.dsn) as connection:
        connection.execute("DELETE FROM distribution_chunks WHERE first_row > 1")
    shop.run_to_the_end()
    job = shop.job()
    assert (job.status, job.issued) == ("paused", 1_000)
    assert "missing from row 1001 on" in (job.reason or "")
    assert shop.do(ResumeDistribution(distribution_id="d1")).accepted
    shop.run_to_the_end()
    assert shop.job().status == "paused"


def test_the_same_list_may_be_sent_again_and_another_one_under_its_name_may_not(shop: Shop) -> None:
    shop.template()
    first = shop.start(users(1_500))
    assert shop.start(users(1_500)).replayed
    assert shop.start(users(1_500), command_id="again").data == first.data
    assert shop.start(users(1_500, "v"), command_id="other").code == "already_exists"
    assert shop.start(users(1_400), command_id="shorter").code == "already_exists"
    shop.run_to_the_end()
    assert shop.holders() == users(1_500)


@pytest.mark.parametrize("other", [users(1_500, "v"), users(1_400)], ids=["as long", "shorter"])
def test_an_id_that_started_one_list_starts_no_other(shop: Shop, other: list[str]) -> None:
    shop.template()
    assert shop.start(users(1_500)).accepted
    assert shop.start(other).code == "command_id_reused"
    assert shop.start(users(1_500)).replayed
    shop.run_to_the_end()
    assert shop.holders() == users(1_500)


def test_a_refused_list_refuses_no_other_under_its_id(shop: Shop) -> None:
    assert shop.start(users(10)).code == "unknown_template"
    shop.template()
    assert shop.start(users(10, "v")).code == "command_id_reused"
    assert shop.start(users(10)).code == "unknown_template"
    assert shop.rows("SELECT count(*) FROM distributions") == [(0,)]


def test_a_stored_list_that_nobody_started_keeps_its_name_from_another_one(shop: Shop) -> None:
    shop.template()
    with transaction(shop.dsn, name="test") as cursor:
        distributions.stage(cursor, distributions.NewJob(ACME, "d1", "t1", "key:merchant", "c"), users(10))
    with pytest.raises(AlreadyExists):
        shop.start(users(10, "v"))
    assert shop.start(users(10), command_id="again").accepted


def test_a_list_whose_distribution_never_started_is_not_kept(shop: Shop) -> None:
    assert shop.start(users(10), template_id="nowhere").code == "unknown_template"
    assert shop.rows("SELECT count(*) FROM distributions") == [(0,)]
    shop.template()
    with transaction(shop.dsn, name="test") as cursor:
        distributions.stage(cursor, distributions.NewJob(ACME, "d9", "t1", "key:merchant", "c"), users(10))
    shop.run_to_the_end()  # Somebody may be about to start it.
    assert staged_chunks(shop) == 1
    with psycopg.connect(shop.dsn) as connection:
        connection.execute("UPDATE distributions SET staged_at = staged_at - interval '25 hours'")
    shop.run_to_the_end()
    assert staged_chunks(shop) == 0


def test_several_distributions_take_turns(shop: Shop) -> None:
    shop.template(claims_per_user_max=2)
    shop.start(users(3_000))
    shop.start(users(3_000), "d2")
    runner = shop.runner(chunks_per_turn=1)
    assert runner.run_once() == 2_000
    assert [shop.job(each).view()["decided"] for each in ("d1", "d2")] == [1_000, 1_000]
    shop.run_to_the_end()
    assert Counter(Counter(shop.holders()).values()) == {2: 3_000}
    assert shop.broken() == []
    runner.close()


def test_one_alone_is_worked_off_at_a_stretch_until_another_waits_for_its_turn(shop: Shop) -> None:
    shop.template(claims_per_user_max=2)
    shop.start(users(6_000))
    runner = shop.runner(chunks_per_read=1, chunks_per_turn=3)
    assert runner.run_once() == 3_000
    shop.start(users(2_000), "d2")
    assert runner.run_once() == 2_000
    assert [shop.job(each).view()["decided"] for each in ("d1", "d2")] == [4_000, 1_000]
    assert shop.do(PauseDistribution(distribution_id="d2")).accepted  # One that rests waits for nobody.
    assert runner.run_once() == 2_000
    assert shop.job("d1").status == "completed"
    runner.close()


def test_a_started_runner_finishes_what_is_under_way_when_it_is_stopped(shop: Shop) -> None:
    shop.template()
    shop.start(users(20_000))
    runner = shop.runner(chunks_per_turn=100)
    runner.start()
    _wait_for(shop, 1)
    runner.stop()
    held = len(shop.holders())
    assert held == shop.job().issued
    shop.run_to_the_end()
    assert shop.holders() == users(20_000)


def _wait_for(shop: Shop, decided: int, process: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = monotonic() + 60
    while shop.job().next_row <= decided and monotonic() < deadline and (process is None or process.poll() is None):
        sleep(0.01)


@pytest.mark.faults
def test_nobody_gets_two_and_nobody_is_left_out_however_often_the_runner_is_killed(shop: Shop) -> None:
    shop.template(stock=15_000)
    everybody = [*users(9_000), *users(1_000), *users(9_000, "v")]  # A thousand are listed twice; stock ends midway.
    shop.start(everybody)
    kills = 0
    while shop.job().status == "running":
        before = shop.job().next_row
        command = [sys.executable, "-m", "tests.integration.distributions.one_runner", shop.dsn]
        process = subprocess.Popen(command, cwd=ROOT)
        _wait_for(shop, before, process)
        if kills < 3 and process.poll() is None:
            kills += 1
            process.kill()
        process.wait(60)
    assert kills, "nothing was killed"
    expected = [*users(9_000), *users(6_000, "v")]
    assert shop.holders() == expected
    refused = shop.refusals()
    assert Counter(code for _, code in refused.values()) == {"user_limit_reached": 1_000, "template_exhausted": 3_000}
    assert [user for user, code in refused.values() if code == "user_limit_reached"] == users(1_000)
    assert shop.broken() == []


@pytest.mark.parametrize("batch_commands_max", [1, 500], ids=["of the next batch", "of its batch"])
def test_a_coupon_of_a_chunk_can_be_used_by_the_very_next_commands(shop: Shop, batch_commands_max: int) -> None:
    shop.template()
    shop.start(users(2_000))
    coupons = [coupon_id(ACME, "t1", user, 1) for user in (users(1)[0], users(2_000)[-1])]
    told = [
        IssueDistributionChunk(distribution_id="d1", first_row=1, user_ids=tuple(users(1_000))),
        LockCoupon(coupon_id=coupons[0], order_id="o1"),
        IssueDistributionChunk(distribution_id="d1", first_row=1_001, user_ids=tuple(users(2_000)[1_000:])),
        LockCoupon(coupon_id=coupons[1], order_id="o2"),
        ClaimCoupon(template_id="t1", user_id=users(2_000)[-1]),
        ReleaseCoupon(coupon_id=coupons[0], order_id="o1"),
    ]
    envelopes = [CommandEnvelope(ACME, f"c{n}", command, "key:m", "c") for n, command in enumerate(told)]
    engine = Engine(shop.log, HANDLERS, EngineSettings(batch_commands_max=batch_commands_max))
    engine.start()
    answers = [future.result(30) for future in engine.submit_many(envelopes)]
    engine.stop()
    assert [answer.code for answer in answers] == ["ok", "ok", "ok", "ok", "user_limit_reached", "ok"]
    again = shop.do(LockCoupon(coupon_id=coupons[0], order_id="o3"))
    assert again.accepted
    assert shop.broken() == []


@dataclass
class Sulking:
    """An engine that fails at the chunks of some distributions."""

    engine: Engine
    fails: set[str]
    asked: list[str] = field(default_factory=list)

    def submit_many(self, envelopes: Sequence[CommandEnvelope]) -> list[Future[Answer]]:
        for envelope in envelopes:
            command: Any = envelope.command
            self.asked.append(command.distribution_id)
            if command.distribution_id in self.fails:
                raise HandlerFailed("this list is cursed")
        return self.engine.submit_many(envelopes)


def test_a_distribution_that_always_fails_is_told_once_and_starves_none_behind_it(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")  # Whoever configured logs before in this process may have wished for less.
    shop.template()
    shop.template("t2")
    shop.start(users(10), "d1")
    shop.start(users(2_500), "d2", "t2")
    engine = Sulking(shop.engine, {"d1"})
    runner = DistributionRunner(shop.dsn, shop.log, engine, RunnerSettings(backoff_seconds_first=0, chunks_per_turn=1))
    for _ in range(3):
        assert runner.run_once() > 0
    assert shop.job("d2").status == "completed"
    assert engine.asked.count("d1") == 3
    told = [record.__dict__["stream"] for record in caplog.records if record.message == "distribution_failing"]
    assert told == [shop.job("d1").stream]
    engine.fails.clear()
    assert runner.run_once() == 10
    runner.close()


def test_a_distribution_that_fails_is_left_alone_for_a_while(shop: Shop) -> None:
    shop.template()
    shop.start(users(10))
    engine = Sulking(shop.engine, {"d1"})
    bounds = RunnerSettings(backoff_seconds_first=3_600, job_backoff_seconds_max=3_600)
    runner = DistributionRunner(shop.dsn, shop.log, engine, bounds)
    for _ in range(3):
        assert runner.run_once() == 0
    assert engine.asked == ["d1"]
    runner.close()


def test_a_chunk_sent_before_a_restore_is_decided_when_it_is_sent_after_it(shop: Shop) -> None:
    class Restored(Sulking):
        def submit_many(self, envelopes: Sequence[CommandEnvelope]) -> list[Future[Answer]]:
            if not self.asked:
                bump_epoch(shop.dsn, 0)
            return super().submit_many(envelopes)

    shop.template()
    shop.start(users(10))
    runner = DistributionRunner(shop.dsn, shop.log, Restored(shop.engine, set()), RunnerSettings())
    with pytest.raises(StoreUnavailable, match="asked in epoch"):
        runner.run_once()
    assert shop.holders() == []
    assert runner.run_once() == 10
    runner.close()
