"""A shard's PostgreSQL server dies in the middle of an order over both shards, and comes back: the order ends whole."""

import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg.rows import dict_row

from command.ports import StoreUnavailable
from contracts.commands import Command
from contracts.envelope import Answer
from infra.postgres.migrations import migrate
from infra.sagas.checkpoints import At
from tests.faults.own_server import OwnServer, own_folder, own_server
from tests.integration.sagas.world import ROUNDS_MAX
from tests.integration.shards.world import ON_0, GiantWorld, TwoStores, verified

pytestmark = pytest.mark.faults

ROUNDS_AWAY = 3  # The other shard goes on meanwhile, and meets nobody.
TRIES_MAX = 20
POINTS = 5  # Of each order's life, at which a server dies.
ORDER = f"{ON_0}-order"
ENDS = {"paid": ("completed", "redeemed", "redeemed"), "lapsed": ("released", "released", "released")}
SPENT = {"reserved": 0, "committed": 1_000, "credited": 0}
UNSPENT = {"reserved": 0, "committed": 0, "credited": 0}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[OwnServer, OwnServer]]:
    """A server for each shard."""
    with own_folder() as one, own_folder() as other, own_server(one) as zero, own_server(other) as first:
        yield zero, first


@pytest.fixture(scope="module")
def stores(servers: tuple[OwnServer, OwnServer]) -> Iterator[TwoStores]:
    """Both stores."""
    for server in servers:
        migrate(server.address)
    stores = TwoStores(*(server.address for server in servers))
    yield stores
    stores.close()


@dataclass
class Kill:
    """Ends a server when the sagas of either shard pass a checkpoint the n-th time. They do not notice: they go on."""

    server: OwnServer
    how: signal.Signals
    nth: int
    passed: int = 0

    def __call__(self, _at: At) -> None:
        self.passed += 1
        if self.passed == self.nth:
            self.server.end(self.how)


@dataclass
class StruckWorld(GiantWorld):
    """Saga processes that lose their database, or somebody else's, give up what they were at, and begin anew."""

    servers: tuple[OwnServer, ...] = ()
    struck: int = 0
    _rounds_away: int = 0
    _told_ids: Iterator[int] = field(default_factory=itertools.count)

    def do(self, command: Command, *, command_id: str | None = None) -> Answer:
        """As any caller: what was not answered is sent again under its id."""
        name = command_id or f"{command.type}-{next(self._told_ids)}"
        for _ in range(TRIES_MAX):
            try:
                return super().do(command, command_id=name)
            except StoreUnavailable:
                continue
        raise AssertionError(f"{name} is never answered")

    def run_once(self) -> int:
        handled = 0
        for shard, process in list(self._processes.items()):
            try:
                handled += process.run_once()
            except (StoreUnavailable, psycopg.OperationalError):
                handled += 1  # It has not got on, and is not done.
                process.close()
                self._processes[shard] = self._process(shard)
        return handled

    def settle(self) -> "StruckWorld":
        """Until nothing is left to do, with both servers there."""
        for _ in range(ROUNDS_MAX):
            handled = self.run_once()
            if dead := [server for server in self.servers if not server.runs]:
                self._rounds_away += 1
                if self._rounds_away > ROUNDS_AWAY:
                    self._bring_back(dead)
            elif handled == 0:
                return self
        raise AssertionError("not quiet")

    def _bring_back(self, dead: list[OwnServer]) -> None:
        for server in dead:
            server.start_where_it_was()
        for store in self._stores:
            store.connection.close()
            store.connection = psycopg.connect(store.dsn, row_factory=dict_row, autocommit=True)
        self.struck += 1
        self._rounds_away = 0


def life(world: StruckWorld, ending: str) -> tuple[str | None, str, str]:
    """One order with a coupon of each shard, from its placing to its end: its step, and what became of both coupons."""
    world.cast()
    world.place(ORDER, "c0", "c1").settle()
    if ending == "paid":
        world.pay("p", ORDER, 4_000).settle()
    else:
        world.later(hours=1).settle()
    return world.ends(ORDER)


@pytest.mark.parametrize("ending", ["paid", "lapsed"])
@pytest.mark.parametrize("shard", [0, 1])
def test_an_order_ends_whole_whichever_shards_server_dies_and_wherever(
    servers: tuple[OwnServer, OwnServer], stores: TwoStores, shard: int, ending: str
) -> None:
    quiet = Kill(servers[shard], signal.SIGKILL, 0)
    undisturbed = StruckWorld(stores, checkpoint=quiet, servers=servers)
    assert life(undisturbed, ending) == ENDS[ending]
    undisturbed.close()
    for point in range(POINTS):
        nth = 1 + point * (9 * quiet.passed // 10) // (POINTS - 1)  # How often nothing is to be done, varies.
        how = (signal.SIGKILL, signal.SIGQUIT)[point % 2]
        world = StruckWorld(stores, checkpoint=Kill(servers[shard], how, nth), servers=servers)
        assert life(world, ending) == ENDS[ending], f"{how.name} at checkpoint {nth} of {quiet.passed}"
        assert world.struck == 1, f"over before checkpoint {nth} of {quiet.passed}"
        assert world.pots() == [SPENT if ending == "paid" else UNSPENT] * 2
        assert (world.owed(), world.double_effects()) == ([], [])
        world.close()
    assert verified(stores).violations == ()
