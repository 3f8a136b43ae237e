"""What the embedded ClickHouse front makes of statements and bodies before any engine sees them."""

import gzip
import zlib
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from infra.embedded import clickhouse_body
from infra.embedded.clickhouse_body import Body, BodyTooLarge, form_fields
from infra.embedded.clickhouse_codec import BrokenBody, Decoder, UnknownEncoding, accepted, encoder
from infra.embedded.clickhouse_statement import read_statement

FRAMES = {
    "lz4": lz4.frame.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize(
    ("body", "target", "settings", "format_name", "rows"),
    [
        (b"INSERT INTO `t` (`a`, b) FORMAT Native\n\x01'`", "INSERT INTO `t` (`a`, b)", "", "Native", b"\x01'`"),
        (b"insert into t settings x=1 format CSV 1,2", "insert into t", "settings x=1", "CSV", b"1,2"),
        (b"INSERT INTO t -- FORMAT TSV\n FORMAT CSV\r\n\n1", "INSERT INTO t -- FORMAT TSV", "", "CSV", b"\n1"),
        (b"INSERT INTO `FORMAT x` (`format`) FORMAT TSV\n", "INSERT INTO `FORMAT x` (`format`)", "", "TSV", b""),
    ],
)
def test_rows_begin_after_the_format_of_an_insert(
    body: bytes, target: str, settings: str, format_name: str, rows: bytes
) -> None:
    insert = read_statement(body).insert
    assert insert is not None
    assert (insert.target, insert.settings, insert.format) == (target, settings, format_name)
    assert body[insert.offset_bytes :] == rows


@pytest.mark.parametrize(
    "body",
    [
        b"INSERT INTO t VALUES (1, 'FORMAT CSV')",
        b"INSERT INTO t (a) FORMAT Values (1)",
        b"INSERT INTO t SELECT 1 FORMAT CSV",
        b"INSERT INTO t WITH 1 AS x SELECT x FORMAT CSV",
    ],
)
def test_an_insert_whose_rows_are_sql_is_left_to_the_engine(body: bytes) -> None:
    assert read_statement(body).insert is None


@pytest.mark.parametrize(
    ("sql", "kind", "format_name"),
    [
        (b"SELECT 1 FORMAT JSON", "SELECT", "JSON"),
        (b"/* a */ -- b\n select 1 format TSV ;\n", "SELECT", "TSV"),
        (b"(SELECT 1) UNION ALL (SELECT 2) FORMAT CSV SETTINGS max_threads = 1", "SELECT", "CSV"),
        (b"select format from t", "SELECT", None),
        (b"SELECT 'FORMAT CSV'", "SELECT", None),
        (b"SELECT (SELECT 1 FORMAT CSV)", "SELECT", None),
        (b"CREATE TABLE t (a UInt8) ENGINE = Memory", "CREATE", None),
        (b"", "", None),
    ],
)
def test_a_statement_says_what_it_is_and_how_it_wants_its_answer(
    sql: bytes, kind: str, format_name: str | None
) -> None:
    statement = read_statement(sql)
    assert (statement.kind, statement.format) == (kind, format_name)


@pytest.mark.parametrize(
    ("sql", "touches"),
    [
        (b"SELECT 1 INTO OUTFILE 'x'", True),
        (b"INSERT INTO t FROM INFILE 'x' FORMAT CSV", True),
        (b"SELECT 'INTO OUTFILE'", False),
    ],
)
def test_statements_that_would_touch_files_of_the_server_are_known(sql: bytes, touches: bool) -> None:
    assert read_statement(sql).touches_server_files is touches


@pytest.mark.parametrize("encoding", FRAMES)
def test_every_frame_of_a_body_is_decoded(encoding: str) -> None:
    parts = [b"a" * 70_000, b"", b"b" * 3, b"c" * 200_000]
    packed = b"".join(FRAMES[encoding](part) for part in parts)
    decoder = Decoder(encoding)
    plain = b"".join(decoder.feed(packed[at : at + 101]) for at in range(0, len(packed), 101))
    decoder.finish()
    assert plain == b"".join(parts)


@pytest.mark.parametrize("encoding", FRAMES)
def test_a_body_that_ends_inside_a_frame_is_refused(encoding: str) -> None:
    decoder = Decoder(encoding)
    decoder.feed(FRAMES[encoding](b"first") + FRAMES[encoding](b"x" * 1_000)[:-3])
    with pytest.raises(BrokenBody, match="middle of a frame"):
        decoder.finish()


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate"])
def test_a_body_that_is_not_what_it_says_is_refused(encoding: str) -> None:
    with pytest.raises(BrokenBody, match="cannot be decompressed"):
        Decoder(encoding).feed(b"plainly not compressed")


@pytest.mark.parametrize("encoding", ["identity", *FRAMES])
def test_an_answer_is_packed_as_its_client_unpacks_it(encoding: str) -> None:
    packer = encoder(encoding)
    packed = packer.compress(b"one,") + packer.compress(b"two" * 1_000) + packer.flush()
    decoder = Decoder(encoding)
    assert decoder.feed(packed) == b"one," + b"two" * 1_000
    decoder.finish()


@pytest.mark.parametrize(
    ("header", "encoding"),
    [("lz4,zstd,gzip", "lz4"), ("gzip, deflate, br, zstd", "zstd"), ("GZIP;q=1.0", "gzip"), ("br", "identity")],
)
def test_the_answer_is_packed_in_the_fastest_way_the_client_takes(header: str, encoding: str) -> None:
    assert accepted(header) == encoding


def test_an_unknown_encoding_is_refused_by_name() -> None:
    with pytest.raises(UnknownEncoding, match="'br'"):
        Decoder("br")


def test_the_rows_of_an_insert_go_to_a_file_and_its_statement_stays(tmp_path: Path) -> None:
    body = Body("INSERT INTO t FORMAT CSV", "gzip", tmp_path / "rows")
    body.feed(gzip.compress(b"1\n" * 200_000))
    body.feed(gzip.compress(b"2\n"))
    insert = body.finish().insert
    assert insert is not None
    assert insert.target == "INSERT INTO t"
    assert (tmp_path / "rows").read_bytes() == b"1\n" * 200_000 + b"2\n"
    body.discard()
    assert not (tmp_path / "rows").exists()


def test_a_text_larger_than_memory_should_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickhouse_body, "TEXT_BYTES_MAX", 1_000)
    body = Body("", "", tmp_path / "rows")
    body.feed(b"INSERT INTO t VALUES " + b"(1)," * 100)
    with pytest.raises(BodyTooLarge, match="1000 bytes"):
        body.feed(b"(1)," * 1_000)


def test_a_form_is_read_as_values_and_files() -> None:
    data = (
        b'--B\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT {a:String}\r\n'
        b'--B\r\nContent-Disposition: form-data; name="param_a"\r\n\r\nG\xc3\xbcte\r\n'
        b'--B\r\nContent-Disposition: form-data; name="ext"; filename="ext"\r\n\r\n1\r\n--B--\r\n'
    )
    values, files = form_fields("multipart/form-data; boundary=B", data)
    assert values == {"query": "SELECT {a:String}", "param_a": "Güte"}
    assert files == ["ext"]
