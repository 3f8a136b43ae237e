"""Leases over two real databases: never overspent and settled to the cent, whoever dies, stops or is away."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from command.engine import Engine, EngineSettings, HandlerFailed
from command.handlers import HANDLERS
from command.ports import StoreUnavailable
from contracts.commands import CloseBudgetLease, CreateBudget, GrantBudgetLease, ShareBudget, UnshareBudget
from contracts.envelope import Answer, CommandEnvelope
from contracts.position import Position
from infra.bootstrap import stores, workers
from infra.cli import app
from infra.cli.errors import ExitCode
from infra.cli.leases import _row
from infra.embedded import Endpoints
from infra.leases import books
from infra.leases.keeper import At, LeaseKeeper
from infra.postgres.log import PostgresEventLog
from infra.settings import Settings, SettingsError
from infra.shards.distinct import require_distinct_stores
from tests.integration.leases.shards import HOLDER, OFF_MINOR, SETTINGS, TERM_SECONDS, Died, Shards
from tests.integration.sagas.world import LOCK_SECONDS, Store

LIMIT_MINOR = 10_500
PATIENCE_SECONDS = 60.0


def spend_all(shards: Shards, keep: Callable[[], object]) -> list[str]:
    """Twelve orders at the holder and two at home, on a budget for ten and a half; what became of each."""
    statuses = [shards.order(shards.home, f"h{nth}") for nth in range(2)]
    for nth in range(12):
        shards.order(shards.holder, f"o{nth}")
        keep()
    return statuses


def assert_settled(shards: Shards, held: int) -> None:
    home, branch = shards.budget(shards.home), shards.budget(shards.holder)
    lent = home.lending.to(HOLDER, "")
    assert len(branch.holds) + len(home.holds) == held
    assert home.available_minor("") + branch.available_minor("") == LIMIT_MINOR - held * OFF_MINOR
    assert lent.out_minor == branch.available_minor("") + branch.totals("").reserved_minor
    assert branch.branch.waiting == ()
    assert shards.violations() == []


def ready(shards: Shards) -> None:
    shards.share(LIMIT_MINOR)
    shards.keep()
    shards.spend_here(shards.home)
    shards.spend_here(shards.holder)


def test_a_budget_on_two_stores_is_spent_to_the_last_coupon_and_not_beyond(shards: Shards) -> None:
    ready(shards)
    assert spend_all(shards, shards.keep) == ["held", "held"]
    assert_settled(shards, held=10)
    for nth in range(8):
        shards.pay(shards.holder, f"o{nth}")
    shards.keep()
    totals = shards.budget(shards.home).totals("")
    assert (totals.committed_minor, totals.announced_percent) == (8_000, 100)
    assert shards.violations() == []


@pytest.mark.parametrize("at", list(At))
def test_a_keeper_may_die_at_every_step(shards: Shards, at: At) -> None:
    deaths = count(1)

    def die_every_other_time(here: At) -> None:
        if here is at and next(deaths) % 2:
            raise Died

    ready(shards)
    spend_all(shards, lambda: shards.keep(die_every_other_time))
    shards.do(shards.home, UnshareBudget(budget_id="b1", holder=HOLDER))
    shards.keep(die_every_other_time)
    assert shards.deaths > 3
    assert_settled(shards, held=10)
    assert shards.budget(shards.holder).available_minor("") == 0


def test_two_keepers_at_once_do_each_step_once(shards: Shards) -> None:
    ready(shards)
    keepers = [shards.keeper(), shards.keeper()]
    with ThreadPoolExecutor(2) as threads:
        for nth in range(9):
            shards.order(shards.holder, f"o{nth}")
            for done in [threads.submit(keeper.run_once) for keeper in keepers]:
                done.result(60)
    for keeper in keepers:
        keeper.close()
    shards.keep()
    assert_settled(shards, held=9)
    branch = shards.budget(shards.holder).branch.tenure("")
    assert branch.number == shards.budget(shards.home).lending.to(HOLDER, "").number


def test_a_holder_that_is_away_keeps_its_lease_and_is_named(shards: Shards) -> None:
    ready(shards)
    before = shards.budget(shards.home)
    shards.wait(2 * TERM_SECONDS)
    home = books.Store(shards.home.dsn, shards.home.log, shards.home.engine)
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    gone = books.Store(nowhere, PostgresEventLog(nowhere), shards.holder.engine)
    keeper = LeaseKeeper(home, {HOLDER: gone}, SETTINGS)
    assert keeper.run_once() == 0
    assert list(keeper.away) == [HOLDER]
    assert shards.budget(shards.home).available_minor("") == before.available_minor("")
    (account,) = [it for it in books.accounts(home, {HOLDER: gone}) if it.realm == shards.realm]
    assert (account.purse, account.reserved_minor > 0, account.overdue_seconds) == (None, True, float(TERM_SECONDS))
    keeper.close()
    shards.keep()  # It is back: what it has not spent comes home.
    assert shards.budget(shards.home).available_minor("") == LIMIT_MINOR


class Watched(books.Store):
    """A store that says what was looked at, and fails where it is told to."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.dsn, store.log, store.engine)
        self.looked_at: list[str] = []
        self.fails: dict[str, Exception] = {}

    def side(self, stream: str) -> books.Side:
        self.looked_at.append(stream)
        return super().side(stream)

    def execute(self, envelope: CommandEnvelope) -> Answer:
        command: Any = envelope.command
        if (error := self.fails.get(command.budget_id)) is not None:
            raise error
        return super().execute(envelope)


@pytest.fixture
def watched(shards: Shards) -> Iterator[tuple[Watched, Watched, LeaseKeeper]]:
    """Home, a holder, and a keeper that looks again at what did not change only after a long time."""
    home, holder = Watched(shards.home), Watched(shards.holder)
    settings = replace(SETTINGS, look_seconds=3_600.0)
    keeper = LeaseKeeper(home, {HOLDER: holder}, settings)
    yield home, holder, keeper
    keeper.close()


def test_a_holder_without_a_part_is_not_looked_at_again_until_something_changes(
    shards: Shards,
) -> None:
    shards.share(LIMIT_MINOR)
    idle = Watched(shards.holder)
    keeper = LeaseKeeper(Watched(shards.home), {"9": idle}, replace(SETTINGS, look_seconds=3_600.0))
    for _ in range(3):
        assert keeper.run_once() == 0
    assert idle.looked_at.count(shards.stream) == 1
    shards.do(shards.home, ShareBudget(budget_id="b1", holder="9"))
    assert keeper.run_once() > 0
    keeper.close()


def test_one_budget_that_fails_stops_no_other_and_its_holder_is_not_called_away(
    shards: Shards, watched: tuple[Watched, Watched, LeaseKeeper], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")  # Whoever configured logs before in this process may have wished for less.
    _, holder, keeper = watched
    shards.do(shards.home, CreateBudget(budget_id="b0", currency="GBP", limit_minor=LIMIT_MINOR))
    shards.do(shards.home, ShareBudget(budget_id="b0", holder=HOLDER))
    shards.share(LIMIT_MINOR)
    holder.fails["b0"] = HandlerFailed("b0 is broken")
    while keeper.run_once():
        pass
    assert keeper.away == {}
    assert shards.budget(shards.holder).available_minor("") > 0
    bad = shards.stream.replace("b1", "b0")
    assert [it.__dict__["stream"] for it in caplog.records if it.message == "lease_budget_failed"] == [bad] * 2
    looked = holder.looked_at.count(bad)
    keeper.run_once()
    assert holder.looked_at.count(bad) == looked  # It is left alone for a while.


def test_a_home_that_fails_is_not_blamed_on_the_holder(
    shards: Shards, watched: tuple[Watched, Watched, LeaseKeeper]
) -> None:
    home, holder, keeper = watched
    shards.share(LIMIT_MINOR)
    home.fails["b1"] = StoreUnavailable("home is away")
    with pytest.raises(StoreUnavailable, match="home is away"):
        keeper.run_once()
    assert keeper.away == {}
    home.fails.clear()
    holder.fails["b1"] = StoreUnavailable("the holder is away")
    keeper.run_once()
    assert list(keeper.away) == [HOLDER]


def test_a_process_that_was_stopped_while_its_lease_was_closed_spends_nothing_when_it_goes_on(shards: Shards) -> None:
    shards.share(100_000)
    shards.keep()
    shards.spend_here(shards.holder)
    assert shards.order(shards.holder, "before") == "held"  # Its engine now knows the branch by heart.
    log = PostgresEventLog(shards.holder.dsn)
    other = Engine(log, HANDLERS, EngineSettings(lock_ttl_seconds=LOCK_SECONDS))
    other.start()
    stopped, shards.holder.engine = shards.holder.engine, other
    shards.do(shards.home, UnshareBudget(budget_id="b1", holder=HOLDER))
    shards.keep()
    assert shards.budget(shards.home).available_minor("") == 100_000 - OFF_MINOR
    shards.holder.engine = stopped
    assert shards.order(shards.holder, "after") == "refused"
    other.stop()
    log.close()
    assert shards.violations() == []


def test_a_lease_that_never_came_is_closed_for_ever_and_home_has_it_again(shards: Shards) -> None:
    shards.share(100_000)

    def die_before_the_holder_hears(at: At) -> None:
        if at is At.ANSWERED:
            raise Died

    keeper = shards.keeper(die_before_the_holder_hears)
    with pytest.raises(Died):
        keeper.run_once()
    keeper.close()
    assert shards.budget(shards.home).available_minor("") == 95_000
    shards.do(shards.home, UnshareBudget(budget_id="b1", holder=HOLDER))
    shards.keep()
    assert shards.budget(shards.home).available_minor("") == 100_000
    assert shards.budget(shards.holder).branch.tenure("").opened_minor == 0
    assert CloseBudgetLease.type in {row["command_type"] for row in commands_at(shards)}


def commands_at(shards: Shards) -> list[dict[str, str]]:
    sql = "SELECT command_type FROM command_log WHERE tenant_id = %s"
    return shards.holder.connection.execute(sql, (shards.realm.tenant_id,)).fetchall()


@pytest.mark.faults
def test_keeper_processes_that_are_killed_lose_nothing(shards: Shards, endpoints: Endpoints, tmp_path: Path) -> None:
    ready(shards)
    addresses = {
        "TESSERA_POSTGRES_DSN": shards.home.dsn,
        "TESSERA_REDIS_URL": endpoints.redis_url,
        "TESSERA_CLICKHOUSE_URL": endpoints.clickhouse_url,
        "TESSERA_SHARD_DSNS": orjson.dumps({HOLDER: shards.holder.dsn}).decode(),
        "TESSERA_LEASE_TERM_SECONDS": str(TERM_SECONDS),
    }

    def start() -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "infra.cli", "worker", "leases"]
        with (tmp_path / "keeper.log").open("ab") as output:
            return subprocess.Popen(argv, env={**os.environ, **addresses}, stdout=output, stderr=subprocess.STDOUT)

    def opened() -> int:
        return shards.budget(shards.holder).branch.tenure("").number

    for nth in range(3):
        number, process = opened(), start()
        assert shards.order(shards.holder, f"k{nth}") == "waiting"
        wait_until(opened, number + 1, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    shards.keep()
    assert_settled(shards, held=3)


def wait_until(count_of: Callable[[], int], wanted: int, process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while count_of() < wanted:
        assert process.poll() is None, f"the keeper ended with {process.returncode}"
        assert monotonic() < deadline, "the keeper did nothing"
        Event().wait(0.02)


def test_a_lease_that_the_holder_refuses_for_good_is_tried_ever_less_often(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards.share(LIMIT_MINOR)
    now, tried = 0.0, list[float]()

    class Refusing:
        def execute(self, envelope: CommandEnvelope, timeout_seconds: float = 30.0) -> Answer:
            if envelope.realm == shards.realm:
                tried.append(now)
            return Answer("refused", "too_old", "This version knows no leases.", {}, Position(1, "e", 0))

    home = books.Store(shards.home.dsn, shards.home.log, shards.home.engine)
    holder = books.Store(shards.holder.dsn, shards.holder.log, Refusing())
    keeper = LeaseKeeper(home, {HOLDER: holder}, SETTINGS)
    monkeypatch.setattr("infra.leases.keeper.monotonic", lambda: now)
    for now in (float(second) for second in range(200)):  # noqa: B007 - the keeper reads it
        keeper.run_once()
    keeper.close()
    gaps = [after - before for before, after in pairwise(tried)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == gaps[-2] == SETTINGS.refused_seconds_max


@pytest.mark.parametrize("is_under_way", [False, True], ids=["before anything is lent", "while a lease is under way"])
def test_a_holder_with_a_budget_of_its_own_under_the_id_gets_nothing_and_what_was_under_way_comes_back(
    shards: Shards, caplog: pytest.LogCaptureFixture, is_under_way: bool
) -> None:
    caplog.set_level("WARNING")
    shards.share(LIMIT_MINOR)
    if is_under_way:
        term: dict[str, int] = {"number": 1, "need_minor": 0, "free_minor": 0, "term_seconds": TERM_SECONDS}
        shards.do(shards.home, GrantBudgetLease(budget_id="b1", holder=HOLDER, period="", **term))
        assert shards.budget(shards.home).available_minor("") < LIMIT_MINOR
    shards.do(shards.holder, CreateBudget(budget_id="b1", currency="GBP", limit_minor=1_000))
    shards.keep()
    assert shards.budget(shards.home).available_minor("") == LIMIT_MINOR
    assert shards.budget(shards.holder).available_minor("") == 1_000
    assert shards.violations() == []
    told = [it.__dict__["stream"] for it in caplog.records if it.message == "lease_holder_has_its_own_budget"]
    assert shards.stream in told

    shards.wait(TERM_SECONDS)
    shards.keep()
    assert shards.budget(shards.home).lending.to(HOLDER, "").number == (1 if is_under_way else 0)
    (state,) = states(shards)
    assert state.startswith("refused: already_exists: Budget b1 lives here")
    shards.do(shards.home, UnshareBudget(budget_id="b1", holder=HOLDER))
    shards.keep()
    assert states(shards) == (["settled"] if is_under_way else [])


def states(shards: Shards) -> list[str]:
    """What `leases list` says of this realm's leases."""
    home, holder = (books.Store(it.dsn, it.log) for it in (shards.home, shards.holder))
    found = [_row(it)["state"] for it in books.accounts(home, {HOLDER: holder}) if it.realm == shards.realm]
    home.close()
    holder.close()
    return found


def test_a_lease_that_is_under_way_to_a_holder_that_never_had_one_is_not_away(shards: Shards) -> None:
    shards.share(LIMIT_MINOR)
    term: dict[str, int] = {"number": 1, "need_minor": 0, "free_minor": 0, "term_seconds": TERM_SECONDS}
    shards.do(shards.home, GrantBudgetLease(budget_id="b1", holder=HOLDER, period="", **term))
    home, holder = (books.Store(it.dsn, it.log) for it in (shards.home, shards.holder))
    (account,) = [it for it in books.accounts(home, {HOLDER: holder}) if it.realm == shards.realm]
    home.close()
    holder.close()
    assert (_row(account)["state"], account.refused) == ("out", "")


def test_one_store_under_two_numbers_is_refused_at_start(shards: Shards) -> None:
    home, holder, away = shards.home.dsn, shards.holder.dsn, "postgresql://nobody@127.0.0.1:1/none"
    require_distinct_stores({0: home, 1: holder, 2: away})
    same = f"{home}{'&' if '?' in home else '?'}application_name=other"
    with pytest.raises(SettingsError, match="TESSERA_SHARD_DSNS is wrong: shards 0 and 2 are one and the same"):
        require_distinct_stores({0: home, 1: holder, 2: same})


def test_processes_refuse_to_share_with_themselves_and_to_keep_leases_with_themselves(
    shards: Shards, endpoints: Endpoints, tmp_path: Path
) -> None:
    others = {1: shards.holder.dsn}
    servers = {"redis_url": endpoints.redis_url, "clickhouse_url": endpoints.clickhouse_url, "data_dir": tmp_path}
    settings = Settings.load(postgres_dsn=shards.home.dsn, shard_dsns=others, **servers)
    shards.do(shards.home, CreateBudget(budget_id="b1", currency="GBP", limit_minor=1_000))
    with stores.running_engine(settings) as engine:
        for holder, code in (("0", "not_a_holder"), ("7", "not_a_holder"), ("1", "ok")):
            command = ShareBudget(budget_id="b1", holder=holder)
            answer = engine.execute(CommandEnvelope(shards.realm, f"share-{holder}", command, "ops", f"s-{holder}"))
            assert answer.code == code
    same = Settings.load(postgres_dsn=shards.home.dsn, shard_dsns={1: shards.home.dsn}, **servers)
    with pytest.raises(SettingsError, match="one and the same"), workers.lease_books(same):
        pass
    result = CliRunner().invoke(app, ["leases", "list", "--json", "--data-dir", str(tmp_path)], env=same.to_env())
    assert result.exit_code == ExitCode.USAGE
    assert "shards 0 and 1 are one and the same database" in result.stderr
