"""The embedded stack as its users know it: data stay, crashes are survived, one process owns a folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis

from infra.embedded import EmbeddedStack, Endpoints, EngineFailed
from infra.embedded.clickhouse import EmbeddedClickHouse
from infra.embedded.postgres import EmbeddedPostgres
from infra.embedded.redis import EmbeddedRedis
from infra.processes import LOOPBACK, FolderInUse, wait_until
from tests.engines import Corners, clickhouse

pytestmark = pytest.mark.integration

PARENT = "tests.integration.embedded_parent"
START_SECONDS = 60


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below pytest's own folder, which nobody else may enter: as root, PostgreSQL runs as another user."""
    with tempfile.TemporaryDirectory(prefix="tessera-test-") as name:
        yield Path(name)


def write(at: Endpoints) -> None:
    with psycopg.connect(at.postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
    with redis.Redis.from_url(at.redis_url) as store:
        store.set("kept", 1000)
    with clickhouse(at.clickhouse_url) as client:
        client.command("CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
        client.insert("kept", [[number] for number in range(1, 1001)], column_names=["n"])


def kept(at: Endpoints) -> tuple[object, object, object]:
    with psycopg.connect(at.postgres_dsn) as connection:
        row = connection.execute("SELECT sum(n) FROM kept").fetchone()
    with redis.Redis.from_url(at.redis_url) as store:
        value = store.get("kept")
    with clickhouse(at.clickhouse_url) as client:
        return row, value, client.command("SELECT sum(n) FROM kept")


ALL_KEPT = ((500_500,), b"1000", 500_500)


@contextmanager
def parent(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", Endpoints, list[int]]]:
    """Another process that runs the stack on the folder."""
    with subprocess.Popen([sys.executable, "-m", PARENT, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told: dict[str, Any] = json.loads(process.stdout.readline())
            yield process, Endpoints(**told["endpoints"]), told["pids"]
        finally:
            process.kill()


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_data_and_ports_stay_from_one_run_to_the_next(folder: Path) -> None:
    with EmbeddedStack(folder) as stack:
        first = stack.endpoints
        pids = [engine.child.pid for engine in stack.engines if engine.child is not None]
        write(first)
    assert not any(alive(pid) for pid in pids)
    with EmbeddedStack(folder) as stack:
        assert stack.endpoints == first
        assert kept(stack.endpoints) == ALL_KEPT


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the next start ends what is left")
def test_when_the_parent_is_killed_the_servers_go_too_and_the_data_stay(folder: Path) -> None:
    with parent(folder) as (process, endpoints, pids):
        write(endpoints)
        assert len(pids) == 3
        assert all(alive(pid) for pid in pids)
        os.kill(process.pid, signal.SIGKILL)
        assert wait_until(lambda: not any(alive(pid) for pid in pids), timeout_seconds=30)
    with EmbeddedStack(folder) as stack:
        assert kept(stack.endpoints) == ALL_KEPT


def test_a_start_right_after_a_kill_waits_for_the_old_servers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedRedis, "grace_seconds", 0.5)
    with parent(folder) as (process, endpoints, pids):
        write(endpoints)
        os.kill(pids[1], signal.SIGSTOP)  # This one hears of nothing and would stay for ever.
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with EmbeddedStack(folder) as stack:
            assert not any(alive(pid) for pid in pids)
            assert kept(stack.endpoints) == ALL_KEPT


def test_servers_that_are_killed_themselves_keep_what_they_said_they_had(folder: Path) -> None:
    with parent(folder) as (process, endpoints, pids):
        write(endpoints)
        for pid in (*pids, process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    with EmbeddedStack(folder) as stack:
        row, _, total = kept(stack.endpoints)
        assert (row, total) == (ALL_KEPT[0], ALL_KEPT[2])  # Redis may lose its last second; it is rebuilt, not trusted.


def test_ctrl_c_leaves_nothing_running(folder: Path) -> None:
    with parent(folder) as (process, _, pids):
        process.send_signal(signal.SIGINT)
        process.wait(START_SECONDS)
        assert not any(alive(pid) for pid in pids)


def test_ctrl_c_during_the_start_leaves_nothing_running(folder: Path) -> None:
    log = folder / "logs" / "redis.log"
    with subprocess.Popen([sys.executable, "-m", PARENT, str(folder)], stderr=subprocess.DEVNULL) as process:
        assert wait_until(log.exists, timeout_seconds=START_SECONDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(START_SECONDS) != 0
    assert list(folder.glob("*.pid")) == []
    with EmbeddedStack(folder) as stack:
        write(stack.endpoints)


def test_a_second_stack_on_the_folder_says_who_holds_it(folder: Path) -> None:
    with parent(folder) as (process, endpoints, _):
        with pytest.raises(FolderInUse, match=f"{folder} is in use by process {process.pid};"), EmbeddedStack(folder):
            pass
        write(endpoints)  # The first one did not notice.


def test_a_port_that_was_taken_meanwhile_is_replaced(folder: Path) -> None:
    with EmbeddedStack(folder) as stack:
        first = stack.endpoints
        write(first)
    taken = urlsplit(first.redis_url).port
    with socket.create_server((LOOPBACK, taken or 0)), EmbeddedStack(folder) as stack:
        assert urlsplit(stack.endpoints.redis_url).port != taken
        assert stack.endpoints.postgres_dsn == first.postgres_dsn
        assert kept(stack.endpoints) == ALL_KEPT


def test_a_stranger_who_took_the_port_is_not_taken_for_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedStack(folder) as stack:
        write(stack.endpoints)
        ports = [urlsplit(stack.endpoints.redis_url).port, urlsplit(stack.endpoints.clickhouse_url).port]
    strangers = [EmbeddedRedis(folder / "strangers"), EmbeddedClickHouse(folder / "strangers")]
    try:
        for stranger, port in zip(strangers, ports, strict=True):
            stranger.start(port)
            assert stranger.port == port
        monkeypatch.setattr("infra.embedded.engine.port_is_free", lambda _: True)  # It came a moment after we looked.
        with EmbeddedStack(folder) as stack:
            assert kept(stack.endpoints) == ALL_KEPT
    finally:
        for stranger in strangers:
            stranger.stop()


def test_a_stranger_who_was_given_the_old_servers_pid_is_left_alone(folder: Path) -> None:
    with EmbeddedStack(folder) as stack:
        write(stack.endpoints)
    server_user = EmbeddedPostgres(folder).user()  # Only its own user's processes mean anything to PostgreSQL.
    with subprocess.Popen(["sleep", "60"], user=server_user) as stranger:
        try:
            lock = folder / "postgres" / "cluster" / "postmaster.pid"
            lock.write_text(f"{stranger.pid}\n{lock.parent}\n1700000000\n5432\n\n127.0.0.1\n1 1\nready\n")
            (folder / "redis.pid").write_text(f"{stranger.pid} somebody-else\n")
            with EmbeddedStack(folder) as stack:
                assert kept(stack.endpoints) == ALL_KEPT
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_first_start_that_was_interrupted_is_begun_anew(folder: Path) -> None:
    unfinished = folder / "postgres" / "cluster.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with EmbeddedStack(folder) as stack:
        write(stack.endpoints)
        assert kept(stack.endpoints) == ALL_KEPT


def test_a_server_that_cannot_start_says_why_and_the_others_are_stopped(folder: Path) -> None:
    with EmbeddedStack(folder):
        pass
    (folder / "postgres" / "cluster" / "global" / "pg_control").unlink()
    with pytest.raises(EngineFailed, match=r"embedded postgres did not start(.|\n)*pg_control"), EmbeddedStack(folder):
        pass
    assert list(folder.glob("*.pid")) == []


def test_an_ephemeral_stack_leaves_no_folder(folder: Path) -> None:
    with EmbeddedStack(folder / "data", ephemeral=True) as stack:
        write(stack.endpoints)
        assert (folder / "data").exists()
    assert not (folder / "data").exists()


def test_nobody_writes_the_books_without_the_password(endpoints: Endpoints) -> None:
    at = urlsplit(endpoints.postgres_dsn)
    for secret in ("", ":guessed"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(urlunsplit(at._replace(netloc=f"tessera{secret}@{at.hostname}:{at.port}")))


def test_the_engines_are_set_up_for_money(endpoints: Endpoints) -> None:
    with psycopg.connect(endpoints.postgres_dsn) as connection:
        for name, value in {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}.items():
            assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)
        assert (connection.info.server_version // 10_000, connection.info.host) == (18, LOOPBACK)
    with redis.Redis.from_url(endpoints.redis_url, decode_responses=True) as store:
        assert store.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert store.config_get("appendonly") == {"appendonly": "yes"}


def test_without_any_redis_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineFailed, match="put `redis-server` or `valkey-server` on PATH"):
        EmbeddedRedis(folder).start()


def test_every_test_has_a_corner_of_its_own(corners: Corners) -> None:
    with corners.postgres(empty=True) as one, corners.postgres(empty=True) as two:
        with psycopg.connect(one, autocommit=True) as connection:
            connection.execute("CREATE TABLE mine ()")
        with psycopg.connect(two) as connection:
            tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            assert connection.execute(tables).fetchone() == (0,)
    with corners.redis() as one, corners.redis() as two:
        with redis.Redis.from_url(one) as store:
            store.set("mine", 1)
        with redis.Redis.from_url(two) as store:
            assert store.dbsize() == 0
    with corners.clickhouse() as one, corners.clickhouse() as two:
        with clickhouse(one) as client:
            client.command("CREATE TABLE mine (a UInt8) ENGINE = Memory")
        with clickhouse(two) as client:
            assert client.command("SELECT count() FROM system.tables WHERE database = currentDatabase()") == 0
