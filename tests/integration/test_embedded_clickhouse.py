"""The embedded ClickHouse, seen by the stock client and by plain HTTP."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import lz4.frame
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from infra.processes import free_port, wait_until
from tests.engines import clickhouse

ROWS = 200_000
COLUMNS = ["id", "name", "amount", "at"]
FACTS = """
CREATE TABLE facts (id UInt64, name String, amount Decimal(18, 3), at DateTime64(6, 'UTC'))
ENGINE = MergeTree ORDER BY id
"""


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    with clickhouse(clickhouse_url, tz_mode="aware") as client:
        yield client


def rows(start: int, count: int) -> list[tuple[int, str, Decimal, datetime]]:
    at = datetime(2024, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)
    return [(number, f"name {number}", Decimal(number) / 1000, at) for number in range(start, start + count)]


# --- inserts and queries by the stock client --------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_no_row_is_lost_on_the_way_in_or_out(clickhouse_url: str, compress: str | bool) -> None:
    with clickhouse(clickhouse_url, compress=compress, tz_mode="aware") as client:
        client.command(FACTS)
        summary = client.insert("facts", rows(0, ROWS), column_names=COLUMNS)
        assert summary.written_rows == ROWS
        totals = client.query("SELECT count(), sum(id), sum(amount), uniqExact(name) FROM facts").first_row
        assert totals == (ROWS, sum(range(ROWS)), Decimal(sum(range(ROWS))) / 1000, ROWS)
        assert client.query("SELECT * FROM facts ORDER BY id").result_rows == rows(0, ROWS)


def test_an_insert_with_settings_of_its_own_brings_its_rows(client: Client) -> None:
    client.command(FACTS)
    client.insert("facts", rows(0, 3), column_names=COLUMNS, settings={"insert_deduplication_token": "once"})
    client.raw_insert("facts", ["id", "name"], b"7,seven\n8,eight\n", fmt="CSV", settings={"max_threads": 1})
    client.command("INSERT INTO facts (id, name) VALUES (9, 'it''s')")
    assert client.query("SELECT id, name FROM facts WHERE id > 2 ORDER BY id").result_rows == [
        (7, "seven"),
        (8, "eight"),
        (9, "it's"),
    ]


def test_a_large_insert_of_values_is_one_statement(client: Client) -> None:
    client.command("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
    client.command("INSERT INTO t VALUES " + ",".join(f"({number})" for number in range(100_000)))
    assert client.command("SELECT sum(a) FROM t") == sum(range(100_000))


def test_parameters_arrive_as_they_were_sent(client: Client) -> None:
    text = "it's a \\ tab\tand\nline “quoted” {x:String} %s"
    at = datetime(2024, 2, 29, 12, 0, 0, 654321, tzinfo=UTC)
    sent = {"text": text, "number": -5, "at": at, "ids": [1, 2, 3], "names": ["a'b", "c"], "nothing": None}
    sql = """SELECT {text:String}, {number:Int64}, {at:DateTime64(6, 'UTC')}, {ids:Array(UInt8)}, {names:Array(String)},
                    {nothing:Nullable(String)}"""
    assert client.query(sql, parameters=sent).first_row == (text, -5, at, [1, 2, 3], ["a'b", "c"], None)


def test_a_parameter_too_long_for_a_url_arrives_too(client: Client) -> None:
    numbers = list(range(50_000))
    assert client.query("SELECT arraySum({n:Array(UInt32)})", parameters={"n": numbers}).first_row == (sum(numbers),)


def test_settings_hold_for_one_statement_only(client: Client) -> None:
    asked = client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 17}).first_row
    assert asked == (17,)
    assert client.query("SELECT getSetting('max_block_size')").first_row != (17,)


def test_an_empty_answer_still_names_its_columns_when_asked(client: Client) -> None:
    assert client.query("SELECT 1 AS a WHERE 0").result_rows == []
    assert client.query("SELECT 1 AS a, 'x' AS b LIMIT 0").column_names == ("a", "b")


def test_a_long_answer_comes_in_blocks(client: Client) -> None:
    seen = 0
    with client.query_row_block_stream("SELECT number FROM numbers(1000000)") as blocks:
        block_count = 0
        for block in blocks:
            seen += sum(number for (number,) in block)
            block_count += 1
    assert (seen, block_count > 1) == (sum(range(1_000_000)), True)


def test_an_error_in_the_middle_of_a_stream_is_no_end_of_data(client: Client) -> None:
    sql = "SELECT throwIf(number = 900000, 'too far') FROM numbers(1000000)"
    with pytest.raises(StreamFailureError, match="too far"), client.query_row_block_stream(sql) as blocks:
        for _ in blocks:
            pass


@pytest.mark.parametrize(
    ("sql", "code", "name"),
    [
        ("SELECT nope", 47, "UNKNOWN_IDENTIFIER"),
        ("SELEC 1", 62, "SYNTAX_ERROR"),
        ("SELECT * FROM nope", 60, "UNKNOWN_TABLE"),
        ("SELECT throwIf(1, 'ouch')", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT {a:UInt8}", 456, "UNKNOWN_QUERY_PARAMETER"),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", 48, "NOT_IMPLEMENTED"),
    ],
)
def test_what_the_engine_refuses_is_a_database_error_with_its_code(
    client: Client, sql: str, code: int, name: str
) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.command(sql)
    assert (caught.value.code, caught.value.name) == (code, name)


def test_rows_that_do_not_fit_are_refused_and_none_is_kept(client: Client) -> None:
    client.command("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
    with pytest.raises(DatabaseError, match="INCORRECT_DATA"):
        client.raw_insert("t", ["a"], b"1\n2\nthree\n", fmt="CSV")
    assert client.command("SELECT count() FROM t") == 0


# --- what the system builds on ----------------------------------------------------------------------------------------


def test_redelivered_facts_count_once(client: Client) -> None:
    client.command("""CREATE TABLE facts (k UInt64, amount Int64, at DateTime64(6, 'UTC'), event_id UUID, row_no UInt16)
                      ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(at) ORDER BY (k, event_id, row_no)""")
    insert = """INSERT INTO facts SELECT number, 5, toDateTime64('2024-01-31 00:00:00', 6, 'UTC'),
                toUUID('00000000-0000-0000-0000-000000000001'), 0 FROM numbers(10)"""
    client.command(insert)
    client.command(insert)
    assert client.query("SELECT count(), (SELECT sum(amount) FROM facts FINAL) FROM facts").first_row == (20, 50)


def test_a_view_takes_parameters(client: Client) -> None:
    client.command(FACTS)
    client.insert("facts", rows(0, 10), column_names=COLUMNS)
    client.command("CREATE VIEW early AS SELECT sum(id) AS ids FROM facts WHERE at <= {as_of:DateTime64(6, 'UTC')}")
    for as_of, ids in (("2024-01-31 23:59:59.123456", 45), ("2024-01-31 23:59:59.123455", 0)):
        assert client.query("SELECT ids FROM early(as_of = {t:String})", parameters={"t": as_of}).first_row == (ids,)


def test_tables_are_exchanged_at_once_and_renamed(client: Client) -> None:
    client.command("CREATE TABLE facts_v1 ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a")
    client.command("CREATE TABLE facts_v2 ENGINE = MergeTree ORDER BY a AS SELECT 2 AS a")
    client.command("EXCHANGE TABLES facts_v1 AND facts_v2")
    client.command("RENAME TABLE facts_v2 TO facts_old")
    assert client.query("SELECT (SELECT a FROM facts_v1), (SELECT a FROM facts_old)").first_row == (2, 1)
    assert client.command("SELECT engine FROM system.databases WHERE name = currentDatabase()") == "Atomic"


def test_readers_see_whole_inserts_while_others_write(clickhouse_url: str) -> None:
    size, inserts = 1_000, 20

    def write(first: int) -> None:
        with clickhouse(clickhouse_url) as client:
            for number in range(inserts):
                client.insert("facts", rows(first + number * size, size), column_names=COLUMNS)

    def read() -> list[int]:
        with clickhouse(clickhouse_url) as client:
            return [int(str(client.command("SELECT count() FROM facts"))) for _ in range(60)]

    with clickhouse(clickhouse_url) as client:
        client.command(FACTS)
        with ThreadPoolExecutor(6) as pool:
            writers = [pool.submit(write, index * 1_000_000) for index in range(2)]
            counts = [reader.result() for reader in [pool.submit(read) for _ in range(4)]]
            for writer in writers:
                writer.result()
        assert client.command("SELECT count() FROM facts") == 2 * inserts * size
    for seen in counts:
        assert seen == sorted(seen)
        assert all(count % size == 0 for count in seen)


# --- plain HTTP -------------------------------------------------------------------------------------------------------


def ask(
    url: str, body: bytes | None = None, *, headers: dict[str, str] | None = None, **params: str
) -> tuple[int, str]:
    status, text, _ = ask_in_full(url, body, headers=headers, **params)
    return status, text


def ask_in_full(
    url: str, body: bytes | None = None, *, headers: dict[str, str] | None = None, **params: str
) -> tuple[int, str, dict[str, str]]:
    at = urlsplit(url)
    request = urllib.request.Request(f"http://{at.hostname}:{at.port}/?{urlencode(params)}", body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read().decode(), _lower(reply)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), _lower(error)


def _lower(reply: object) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}  # type: ignore[attr-defined]


def test_curl_gets_an_answer(clickhouse_url: str) -> None:
    assert ask(clickhouse_url, query="SELECT 1") == (200, "1\n")
    assert ask(clickhouse_url, b"SELECT 2") == (200, "2\n")
    assert ask(clickhouse_url, b"3, 4", query="SELECT 2,") == (200, "2\t3\t4\n")
    assert ask(clickhouse_url) == (200, "Ok.\n")


def test_the_format_is_the_statements_own_or_the_callers_default(clickhouse_url: str) -> None:
    sql = b"SELECT 1 AS a"
    assert json.loads(ask(clickhouse_url, sql + b" FORMAT JSON")[1])["data"] == [{"a": 1}]
    assert ask(clickhouse_url, sql, default_format="JSONEachRow") == (200, '{"a":1}\n')
    assert ask(clickhouse_url, sql, headers={"X-ClickHouse-Format": "CSVWithNames"}) == (200, '"a"\n1\n')
    assert ask(clickhouse_url, sql, default_format="DataFrame")[0] == 404


def test_the_database_is_a_parameter_or_a_header(clickhouse_url: str) -> None:
    database = urlsplit(clickhouse_url).path.strip("/")
    sql = b"SELECT currentDatabase()"
    assert ask(clickhouse_url, sql, database=database)[1] == f"{database}\n"
    assert ask(clickhouse_url, sql, headers={"X-ClickHouse-Database": database})[1] == f"{database}\n"
    assert ask(clickhouse_url, sql)[1] == "default\n"
    assert ask(clickhouse_url, sql, database="nowhere")[0] == 404


def test_the_headers_say_what_clickhouse_says(clickhouse_url: str) -> None:
    _, _, headers = ask_in_full(
        clickhouse_url, b"SELECT number FROM numbers(3)", query_id="mine", wait_end_of_query="1"
    )
    assert headers["x-clickhouse-query-id"] == "mine"
    assert headers["x-clickhouse-format"] == "TabSeparated"
    assert headers["x-clickhouse-timezone"]
    assert headers["x-clickhouse-server-display-name"]
    assert json.loads(headers["x-clickhouse-summary"])["read_rows"] == "3"
    status, text, headers = ask_in_full(clickhouse_url, b"SELECT nope")
    assert (status, headers["x-clickhouse-exception-code"]) == (404, "47")
    assert text.startswith("Code: 47. DB::Exception: ")


def test_a_get_only_reads(clickhouse_url: str) -> None:
    status, text = ask(clickhouse_url, query="CREATE TABLE t (a UInt8) ENGINE = Memory")
    assert (status, "READONLY" in text) == (403, True)
    assert ask(clickhouse_url, query="SELECT getSetting('max_threads')", max_threads="3") == (200, "3\n")


def test_a_broken_body_inserts_nothing(clickhouse_url: str) -> None:
    database = urlsplit(clickhouse_url).path.strip("/")
    assert ask(clickhouse_url, b"CREATE TABLE t (a UInt64) ENGINE = Memory", database=database)[0] == 200
    packed = lz4.frame.compress(b"1\n" * 100_000) + lz4.frame.compress(b"2\n" * 100_000)[:-5]
    insert: dict[str, Any] = {"query": "INSERT INTO t FORMAT TSV", "database": database}
    assert ask(clickhouse_url, packed, headers={"Content-Encoding": "lz4"}, **insert)[0] == 400
    assert ask(clickhouse_url, packed, headers={"Content-Encoding": "br"}, **insert)[0] == 501
    assert ask(clickhouse_url, packed, decompress="1", **insert)[0] == 501
    assert ask(clickhouse_url, b"SELECT count() FROM t", database=database)[1] == "0\n"


def test_a_web_page_of_somebody_else_gets_no_answer(clickhouse_url: str) -> None:
    assert ask(clickhouse_url, b"SELECT 1", headers={"Origin": "https://elsewhere.example"})[0] == 403
    assert ask(clickhouse_url, b"SELECT 1", headers={"Host": "rebound.example"})[0] == 403
    assert ask(clickhouse_url, b"SELECT 1", headers={"Origin": "http://localhost:3000"}) == (200, "1\n")


SLOW = b"SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1 FORMAT Null"


def running(url: str) -> int:
    return int(ask(url, b"SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow(1)%60%FORMAT Null'")[1])


def send_and_hold(url: str, sql: bytes) -> socket.socket:
    at = urlsplit(url)
    connection = socket.create_connection((at.hostname or "", at.port or 0), timeout=30)
    head = f"POST /?wait_end_of_query=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sql)}\r\n\r\n"
    connection.sendall(head.encode() + sql)
    return connection


def test_slow_statements_hold_up_nobody_and_end_with_their_clients(clickhouse_url: str) -> None:
    held = [send_and_hold(clickhouse_url, SLOW) for _ in range(4)]
    try:
        assert wait_until(lambda: running(clickhouse_url) == 4, timeout_seconds=20)
        assert ask(clickhouse_url) == (200, "Ok.\n")
    finally:
        for connection in held:
            connection.close()
    assert wait_until(lambda: running(clickhouse_url) == 0, timeout_seconds=20)


def test_ping_answers_while_every_place_is_taken(clickhouse_url: str) -> None:
    held = [send_and_hold(clickhouse_url, SLOW) for _ in range(12)]
    try:
        at = urlsplit(clickhouse_url)
        for _ in range(20):
            with urllib.request.urlopen(f"http://{at.hostname}:{at.port}/ping", timeout=10) as reply:
                assert reply.read() == b"Ok.\n"
    finally:
        for connection in held:
            connection.close()
    assert wait_until(lambda: running(clickhouse_url) == 0, timeout_seconds=30)


def test_more_callers_than_places_are_all_answered(clickhouse_url: str) -> None:
    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(ask, clickhouse_url, f"SELECT {number}".encode()) for number in range(200)]
        assert [each.result() for each in asked] == [(200, f"{number}\n") for number in range(200)]


# --- one process owns the folder --------------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_second_server_on_the_folder_says_whose_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infra.embedded.clickhouse_server", str(tmp_path), "--port"]
    port = free_port()
    with subprocess.Popen([*command, str(port)]) as first:
        try:
            assert wait_until(lambda: answers(port), timeout_seconds=60)
            second = subprocess.run(
                [*command, str(free_port())], capture_output=True, text=True, timeout=60, check=False
            )
            assert second.returncode == 1
            assert second.stderr == f"clickhouse: {tmp_path} is in use by process {first.pid}; stop that first\n"
            assert answers(port)
        finally:
            first.terminate()
        assert first.wait(30) == 0


def answers(port: int) -> bool:
    try:
        return ask(f"http://127.0.0.1:{port}/", b"SELECT 1") == (200, "1\n")
    except urllib.error.URLError:
        return False


def test_statements_of_one_kind_do_not_wait_for_another(clickhouse_url: str) -> None:
    """While a writer sends its rows slowly, readers are served."""
    at = urlsplit(clickhouse_url)
    database = at.path.strip("/")
    assert ask(clickhouse_url, b"CREATE TABLE t (a UInt64) ENGINE = Memory", database=database)[0] == 200
    query = urlencode({"query": "INSERT INTO t FORMAT TSV", "database": database})
    with socket.create_connection((at.hostname or "", at.port or 0), timeout=30) as writer:
        writer.sendall(f"POST /?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n1\n".encode())
        assert ask(clickhouse_url, b"SELECT count() FROM t", database=database) == (200, "0\n")
        writer.sendall(b"2\n")
        assert writer.recv(100).startswith(b"HTTP/1.1 200")
    assert ask(clickhouse_url, b"SELECT count() FROM t", database=database) == (200, "2\n")


def test_a_client_that_dies_while_sending_inserts_nothing(clickhouse_url: str) -> None:
    at = urlsplit(clickhouse_url)
    database = at.path.strip("/")
    assert ask(clickhouse_url, b"CREATE TABLE t (a UInt64) ENGINE = Memory", database=database)[0] == 200
    query = urlencode({"query": "INSERT INTO t FORMAT TSV", "database": database})
    head = f"POST /?{query} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((at.hostname or "", at.port or 0), timeout=30) as writer:
        writer.sendall(head.encode() + b"2\r\n1\n\r\n2\r\n2\n\r\n")
    for _ in range(5):
        assert ask(clickhouse_url, b"SELECT count() FROM t", database=database) == (200, "0\n")
