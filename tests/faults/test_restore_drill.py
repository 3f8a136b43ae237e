"""The restore drill of the operations guide: back up, go on, lose the server, restore, say so, rebuild, verify."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from os import environ
from pathlib import Path
from threading import Event as Signal
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from contracts.access import ROLES
from contracts.identity import Realm
from infra.bootstrap.serving import http_application
from infra.bootstrap.stores import create_key, migrate, write_side
from infra.cli import app
from infra.cli.projections import lag_state
from infra.embedded import postgres
from infra.operations import follower_standings
from infra.postgres.feed import StoreFeed
from infra.processes import wait_until
from infra.projections.service import ProjectionService
from infra.sagas.worker import SagaWorker
from infra.settings import Settings
from infra.telemetry.ids import new_id
from projections.catalog import READ_MODELS
from tests.engines import Corners
from tests.faults.own_server import OwnServer, own_folder, own_server
from tests.integration.http.conftest import serving
from tests.integration.projections import oracle

pytestmark = pytest.mark.faults

SHOP: Final = Realm("acme", "shop")
ORDERS_BEFORE: Final = 4
ORDERS_AFTER: Final = 6
PATIENCE_SECONDS: Final = 60.0
TERMS: Final[dict[str, Any]] = {
    "name": "Ten off",
    "campaign_id": "spring",
    "currency": "EUR",
    "discount": {"kind": "amount_off", "amount_minor": 1_000},
    "claim_from": (datetime.now(UTC) - timedelta(days=1)).isoformat(),
    "claim_until": (datetime.now(UTC) + timedelta(days=30)).isoformat(),
    "validity": {"kind": "after_claim", "duration_seconds": 86_400},
}


@dataclass
class Site:
    """Everything that runs, and an upstream that remembers what it sent."""

    server: OwnServer
    settings: Settings
    token: str = ""
    url: str = ""
    sent: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """API, sagas and projections, as their processes run them; stopped in good order at the end."""
        with ExitStack() as stack:
            side = stack.enter_context(write_side(self.settings))
            worker = SagaWorker(self.settings.postgres_dsn, side.log, side.engine)
            stack.callback(worker.stop)
            worker.start()
            stack.enter_context(self._projections())
            self.url = stack.enter_context(serving(stack.enter_context(http_application(self.settings))))
            yield

    @contextmanager
    def _projections(self) -> Iterator[None]:
        stop = Signal()
        with ProjectionService(
            postgres_dsn=self.settings.postgres_dsn,
            redis_url=self.settings.redis_url,
            clickhouse_url=self.settings.facts_url,
        ) as service:
            thread = Thread(target=service.run, args=(stop,))
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join(PATIENCE_SECONDS)

    def wait(self, holds: Any, what: str) -> None:
        assert wait_until(holds, timeout_seconds=PATIENCE_SECONDS), f"waited for {what} in vain: {self.states()}"

    def http(self, method: str, path: str, *, body: Any = None, key: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | ({"Idempotency-Key": key} if key else {})
        return httpx.request(method, self.url + path, json=body, headers=headers, timeout=20)

    def send(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """What an upstream posts, and keeps in case it has to be sent again."""
        self.sent.append((path, body, key))
        response = self.http("POST", path, body=body, key=key)
        assert response.status_code in {200, 201}, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def open(self) -> None:
        self.send("/v1/templates", {"template_id": "t", "terms": TERMS}, "create")
        self.send("/v1/templates/t/activate", {}, "activate")

    def buy(self, name: str, *, pay: bool = True) -> str:
        """A claim, an order and its payment; returns the coupon's id."""
        claimed = self.send("/v1/templates/t/claims", {"user_id": f"u-{name}"}, new_id())
        coupon_id: str = claimed["data"]["coupon_id"]
        line = {"line_id": "a", "sku": "kettle", "unit_price_minor": 6_000}
        order = {"order_id": f"o-{name}", "user_id": f"u-{name}", "currency": "EUR"}
        self.send("/v1/orders", {**order, "coupon_ids": [coupon_id], "lines": [line]}, f"order-{name}")
        if pay:
            self.pay(name)
        return coupon_id

    def pay(self, name: str) -> None:
        payment = {"payment_id": f"p-{name}", "order_id": f"o-{name}", "status": "succeeded"}
        self.send("/v1/payments", {**payment, "currency": "EUR", "amount_minor": 5_000}, f"pay-{name}")

    def send_again(self, since: int) -> None:
        """All that was sent from a certain one on, under the same ids."""
        for path, body, key in self.sent[since:]:
            response = self.http("POST", path, body=body, key=key)
            assert response.status_code in {200, 201}, response.text

    def cli(self, *arguments: str) -> dict[str, Any]:
        """A command, as typed; what it answers with --json."""
        done = CliRunner().invoke(app, [*arguments, "--json"], env=self.settings.to_env())
        assert done.exit_code == 0, f"{arguments}: {done.exit_code}\n{done.output}\n{done.stderr}"
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def states(self) -> dict[str, str]:
        """Each follower and what `tessera projections lag` says of it."""
        return {each.name: lag_state(each, 0) for each in follower_standings(self.settings)}

    def wait_until_quiet(self) -> None:
        self.wait(lambda: set(self.states().values()) == {"ok"}, "every follower to have read everything")

    def postgres_tool(self, name: str, *arguments: str) -> None:
        """One of PostgreSQL's own programs, with the server's password."""
        password = urlsplit(self.settings.postgres_dsn).password or ""
        program = postgres._install_folder() / "bin" / name
        environment = {**environ, "PGPASSWORD": password}
        subprocess.run([str(program), *arguments], check=True, env=environment, timeout=PATIENCE_SECONDS)

    def back_up(self, folder: Path) -> None:
        """pg_basebackup: the whole server, while it works."""
        where = urlsplit(self.settings.postgres_dsn)
        address = ("--host", str(where.hostname), "--port", str(where.port), "--username", str(where.username))
        self.postgres_tool("pg_basebackup", *address, "--checkpoint", "fast", "--pgdata", str(folder))

    def dump(self, file: Path) -> None:
        """pg_dump: one database, consistent in itself, while it works."""
        self.postgres_tool("pg_dump", "--format", "custom", "--file", str(file), "--dbname", self.settings.postgres_dsn)

    def restore_beside(self, dump: Path, name: str) -> None:
        """Another database of the same server takes the place of the one that was dumped."""
        where = urlsplit(self.settings.postgres_dsn)
        address = ("--host", str(where.hostname), "--port", str(where.port), "--username", str(where.username))
        self.postgres_tool("createdb", *address, name)
        self.postgres_tool("pg_restore", "--exit-on-error", *address, "--dbname", name, str(dump))
        self.settings = self.settings.model_copy(update={"postgres_dsn": where._replace(path=f"/{name}").geturl()})

    def lose_and_restore(self, backup: Path) -> None:
        """The server dies, and the backup takes its place."""
        self.server.end(signal.SIGKILL)
        cluster = self.server.folder / "cluster"
        shutil.rmtree(cluster)
        shutil.copytree(backup, cluster)
        if user := self.server.user():
            for path in (cluster, *cluster.rglob("*")):
                shutil.chown(path, user, user)
        os.chmod(cluster, 0o700)
        self.server.start_where_it_was()


@pytest.fixture
def site(corners: Corners) -> Iterator[Site]:
    """A site with a PostgreSQL server of its own."""
    with (
        own_folder() as folder,
        own_server(folder) as server,
        corners.redis() as redis_url,
        corners.clickhouse() as clickhouse_url,
    ):
        settings = Settings.load(
            postgres_dsn=server.address,
            redis_url=redis_url,
            clickhouse_url=clickhouse_url,
            log_level="error",
        )
        migrate(settings)
        site = Site(server, settings)
        site.token = create_key(settings, SHOP, role="admin", scopes=ROLES["admin"], label="test")
        yield site


def halted(states: dict[str, str], why: str) -> Sequence[str]:
    return sorted(name for name, state in states.items() if why in state)


def test_a_store_that_was_set_back_is_noticed_told_rebuilt_and_whole(site: Site, tmp_path: Path) -> None:
    outside = sorted([*READ_MODELS, "facts"])
    with site.running():
        site.open()
        kept = [site.buy(f"before{nth}") for nth in range(ORDERS_BEFORE)]
        site.buy("unpaid", pay=False)
        site.wait_until_quiet()
        site.back_up(tmp_path / "backup")
        backed_up = len(site.sent)
        site.pay("unpaid")
        lost = [site.buy(f"after{nth}") for nth in range(ORDERS_AFTER)]
        site.wait_until_quiet()
        assert site.http("GET", f"/v1/coupons/{lost[0]}").json()["data"]["status"] == "redeemed"
    site.lose_and_restore(tmp_path / "backup")

    with site.running():
        # Nobody said anything yet, and the log grows: whoever is ahead of it halts.
        site.buy("meanwhile")
        site.wait(lambda: halted(site.states(), "nobody said so") == outside, "followers to halt")

        first = site.cli("restored", "--id", "drill", "--yes")
        again = site.cli("restored", "--id", "drill", "--yes")
        assert [each["is_new"] for each in (*first["restores"], *again["restores"])] == [True, False]
        assert first["restores"][0]["epoch"] == again["restores"][0]["epoch"]

        # Decisions go on; what shows a history that is over is not served.
        site.wait(
            lambda: site.http("POST", "/v1/templates/t/claims", body={"user_id": "x"}).status_code == 201, "a claim"
        )
        claimed = site.http("POST", "/v1/templates/t/claims", body={"user_id": "y"}).json()
        site.wait(lambda: site.http("GET", f"/v1/coupons/{lost[0]}").status_code == 503, "models to be withdrawn")
        address = f"/v1/coupons/{claimed['data']['coupon_id']}?min_position={claimed['position']}"
        assert site.http("GET", address).json()["code"] == "read_model_unavailable"
        assert halted(site.states(), "the store is in epoch") == outside

        rebuilt = site.cli("projections", "rebuild", "halted")
        assert sorted(each["name"] for each in rebuilt["rebuilt"]) == outside
        assert site.http("GET", address).status_code == 200
        assert {site.http("GET", f"/v1/coupons/{each}").json()["data"]["status"] for each in kept} == {"redeemed"}

        site.send_again(backed_up)
        site.wait_until_quiet()
        assert {site.http("GET", f"/v1/coupons/{each}").status_code for each in lost} == {200}
        assert site.http("GET", "/v1/orders/o-unpaid").json()["data"]["saga"]["step"] == "completed"
        assert site.cli("verify")["violations"] == []
        assert_equal_to_the_store(site)


def test_a_dump_that_takes_the_place_of_its_database_is_as_good_a_backup(site: Site, tmp_path: Path) -> None:
    with site.running():
        site.open()
        site.buy("before")
        site.buy("unpaid", pay=False)
        site.wait_until_quiet()
        site.dump(tmp_path / "tessera.dump")
        dumped = len(site.sent)
        site.pay("unpaid")
        site.buy("after")
        site.wait_until_quiet()
    site.restore_beside(tmp_path / "tessera.dump", "tessera_new")
    assert migrate(site.settings) == {"postgres": [], "clickhouse": []}, "nothing is missing of what it was"

    with site.running():
        assert [each["is_new"] for each in site.cli("restored", "--id", "dump", "--yes")["restores"]] == [True]
        outside = sorted([*READ_MODELS, "facts"])
        site.wait(lambda: halted(site.states(), "the store is in epoch") == outside, "followers to halt")
        assert sorted(each["name"] for each in site.cli("projections", "rebuild", "halted")["rebuilt"]) == outside
        site.send_again(dumped)
        site.wait_until_quiet()
        assert site.http("GET", "/v1/orders/o-unpaid").json()["data"]["saga"]["step"] == "completed"
        assert site.http("GET", "/v1/orders/o-after").json()["data"]["saga"]["step"] == "completed"
        assert site.cli("verify")["violations"] == []
        assert_equal_to_the_store(site)


def assert_equal_to_the_store(site: Site) -> None:
    """Every model has the checksum of an independent fold of the log; every event has its facts."""
    feed = StoreFeed(site.settings.postgres_dsn)
    log = feed.read(0, 100_000)
    feed.close()
    told = {each["name"]: each["checksum"] for each in site.cli("projections", "checksum")["checksums"]}
    assert {name: told[name] for name in READ_MODELS} == oracle.checksums(log)
    rows = {table: int(found.split(":")[0]) for table, found in (each.split("=") for each in told["facts"].split())}
    assert {table: count for table, count in rows.items() if count} == oracle.row_counts(log)
