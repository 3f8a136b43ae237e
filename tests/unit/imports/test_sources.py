"""A file is taken exactly as declared, or refused with file, row and reason; nothing is rounded, cut off or guessed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from infra.imports.errors import BadMapping, BadSource
from infra.imports.mapping import Mapping
from infra.imports.source import fingerprint_all, load_all
from tests.unit.imports.samples import ROWS, Shop


@contextmanager
def loaded(folder: Path, mapping: Mapping) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        load_all(connection, folder, mapping)
        yield connection


def refusal(shop: Shop) -> BadSource:
    with pytest.raises(BadSource) as refused, loaded(shop.data, shop.mapping()):
        pass
    return refused.value


def test_a_clean_csv_file_becomes_a_typed_table(shop: Shop) -> None:
    with loaded(shop.data, shop.mapping()) as connection:
        types = {row[0]: row[1] for row in connection.execute("DESCRIBE sales").fetchall()}
        assert types == {
            "order_id": "VARCHAR",
            "placed_at": "TIMESTAMP",
            "customer": "VARCHAR",
            "quantity": "INTEGER",
            "price": "DECIMAL(10,3)",
        }
        assert connection.execute("SELECT count(*), sum(quantity), count(customer) FROM sales").fetchall() == [
            (4, 5, 3)
        ]


def test_other_columns_another_order_and_a_byte_order_mark_do_no_harm(shop: Shop) -> None:
    shop.sales.write_text(
        "\ufeffprice,note,quantity,customer,placed_at,order_id\n1.5,hello,2,anna,2024-03-01 09:00:00,o1\n",
        encoding="utf-8",
    )
    with loaded(shop.data, shop.mapping()) as connection:
        assert connection.execute("SELECT order_id, quantity, price::VARCHAR FROM sales").fetchall() == [
            ("o1", 2, "1.500")
        ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("o5,2024-03-02 09:00:00,eve,many,1.00", "column quantity: 'many' is no INTEGER"),
        ("o5,2024-03-02 09:00:00,eve,1.5,1.00", "column quantity: '1.5' is no INTEGER"),
        ("o5,2024-03-02 09:00:00,eve,1e3,1.00", "column quantity: '1e3' is no INTEGER"),
        ("o5,2024-03-02 09:00:00,eve,99999999999,1.00", "column quantity: '99999999999' is no INTEGER"),
        ("o5,2024-03-02 09:00:00,eve,,1.00", "column quantity: is empty"),
        ("o5,2024-03-02 09:00:00,eve,1,1.0005", "column price: '1.0005' is no DECIMAL(10,3)"),
        ("o5,2024-03-02 09:00:00,eve,1,12345678.00", "column price: '12345678.00' is no DECIMAL(10,3)"),
        ("o5,2024-03-02 09:00:00,eve,1,NaN", "column price: 'NaN' is no DECIMAL(10,3)"),
        ("o5,2024-02-30 09:00:00,eve,1,1.00", "column placed_at: '2024-02-30 09:00:00' is no TIMESTAMP"),
        ("o5,2024-03-02 09:00:00+02:00,eve,1,1.00", "column placed_at: '2024-03-02 09:00:00+02:00' is no TIMESTAMP"),
        ("o5,2024-03-02 09:00:00,eve,1", "Expected Number of Columns: 5 Found: 4"),
        ("o5,2024-03-02 09:00:00,eve,1,1.00,more", "Expected Number of Columns: 5 Found: 6"),
        ('o5,2024-03-02 09:00:00,"eve,1,1.00', "unterminated quote"),
    ],
)
def test_a_dirty_csv_row_is_named_with_its_number(shop: Shop, row: str, reason: str) -> None:
    shop.write_rows(*ROWS, row)
    refused = refusal(shop)
    assert (refused.file.name, refused.row) == ("sales.csv", 5)
    assert reason in refused.reason
    assert str(refused).startswith("sales.csv, row 5: ")


def test_the_first_dirty_row_is_named_also_in_a_large_file(shop: Shop) -> None:
    rows = [f"o{n},2024-03-01 09:00:00,u,1,1.00" for n in range(1, 300_001)]
    rows[250_000 - 1] = "o250000,2024-03-01 09:00:00,u,x,1.00"
    shop.write_rows(*rows)
    assert refusal(shop).row == 250_000


def test_trailing_zeros_are_no_digits_to_lose(shop: Shop) -> None:
    shop.write_rows("o1,2024-03-01 09:00:00,anna,+2,1.50000")
    with loaded(shop.data, shop.mapping()) as connection:
        assert connection.execute("SELECT quantity, price::VARCHAR FROM sales").fetchall() == [(2, "1.500")]


def test_a_csv_file_cut_within_its_last_field_is_truncated_although_it_parses(shop: Shop) -> None:
    shop.write_rows(*ROWS[:3], "o4,2024-03-02 08:15:00,dora,3,1.2", end="")
    refused = refusal(shop)
    assert refused.row == 4
    assert "truncated" in refused.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no header"),
        (b"order_id,placed_at,customer,quantity\n", "column price is missing"),
        (b"order_id,placed_at,customer,quantity,price,price\n", "names price twice"),
        (
            b"order_id;placed_at;customer;quantity;price\n",
            "column order_id, placed_at, customer, quantity, price is missing",
        ),
        ("order_id,placed_at,customer,quantity,price\né\n".encode("latin-1"), ""),
        ("préfixe".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_file_that_is_not_as_declared_is_refused(shop: Shop, content: bytes, reason: str) -> None:
    shop.sales.write_bytes(content)
    assert reason in refusal(shop).reason


def test_text_in_another_encoding_is_named_with_its_row(shop: Shop) -> None:
    shop.write_rows(*ROWS)
    shop.sales.write_bytes(shop.sales.read_bytes() + "é5,2024-03-02 09:00:00,eve,1,1.00\n".encode("latin-1"))
    refused = refusal(shop)
    assert refused.row == 5
    assert "header" not in refused.reason


def test_a_missing_file_is_named_with_what_is_there_instead(shop: Shop) -> None:
    shop.sales.rename(shop.data / "turnover.csv")
    assert "missing (the folder holds turnover.csv)" in refusal(shop).reason
    with pytest.raises(BadSource, match="missing"):
        fingerprint_all(shop.data, shop.mapping())


def test_a_missing_folder_is_named(shop: Shop) -> None:
    with pytest.raises(BadSource, match="nowhere does not exist"):
        fingerprint_all(shop.data / "nowhere", shop.mapping())


def test_a_fingerprint_changes_with_any_byte(shop: Shop) -> None:
    before = fingerprint_all(shop.data, shop.mapping())
    shop.write_rows(ROWS[0].replace("10.005", "10.006"), *ROWS[1:])
    after = fingerprint_all(shop.data, shop.mapping())
    assert before["sales"].size_bytes == after["sales"].size_bytes
    assert before != after


def test_a_row_that_parses_but_cannot_be_is_named_with_the_check_that_it_fails(shop: Shop) -> None:
    shop.edit(
        "mapping.toml",
        '[[statements]]\nname = "orders"',
        """[files.sales.checks]
"sold in 2024" = "placed_at BETWEEN '2024-01-01' AND '2025-01-01'"
"a price" = "price >= 0"

[[statements]]
name = "orders\"""",
    )
    with loaded(shop.data, shop.mapping()):
        pass  # Clean rows pass.
    shop.write_rows(*ROWS[:2], ROWS[2].replace("2024", "1724"), *ROWS[3:])
    refused = refusal(shop)
    assert (refused.row, refused.reason) == (3, "it fails the check: sold in 2024")


def test_a_check_that_is_no_sql_is_the_mappings_fault(shop: Shop) -> None:
    shop.edit(
        "mapping.toml",
        '[[statements]]\nname = "orders"',
        """[files.sales.checks]
"a price" = "prize >= 0"

[[statements]]
name = "orders\"""",
    )
    with pytest.raises(BadMapping, match=r"files\.sales\.checks: a price: .*prize"), loaded(shop.data, shop.mapping()):
        pass


# Parquet


def write_parquet(shop: Shop, select: str, rows_per_group: int = 122_880) -> Path:
    shop.edit("mapping.toml", 'path = "sales.csv"', 'path = "sales.parquet"')
    path = shop.data / "sales.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE {rows_per_group})")
    return path


GOOD = """
SELECT 'o' || n AS order_id, TIMESTAMP '2024-03-01 09:00:00' AS placed_at, md5(n::VARCHAR) AS customer,
       1::INTEGER AS quantity, 1.5::DECIMAL(10,3) AS price FROM range(20480) AS _(n)
"""


def test_a_parquet_file_is_read_whole(shop: Shop) -> None:
    write_parquet(shop, GOOD)
    with loaded(shop.data, shop.mapping()) as connection:
        assert connection.execute("SELECT count(*), sum(price)::VARCHAR FROM sales").fetchall() == [
            (20_480, "30720.000")
        ]


def test_a_truncated_parquet_file_is_refused(shop: Shop) -> None:
    path = write_parquet(shop, GOOD)
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated or no Parquet file" in refusal(shop).reason


def test_an_empty_parquet_file_is_refused(shop: Shop) -> None:
    write_parquet(shop, GOOD).write_bytes(b"")
    assert "truncated or no Parquet file" in refusal(shop).reason


def test_damage_within_a_parquet_file_is_named_with_the_first_row_that_it_reaches(shop: Shop) -> None:
    path = write_parquet(shop, GOOD, rows_per_group=2_048)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 500] = bytes(byte ^ 0xFF for byte in content[middle : middle + 500])
    path.write_bytes(bytes(content))
    refused = refusal(shop)
    assert refused.row is not None
    assert refused.row % 2_048 == 1  # The first row of a row group …
    assert 6_000 < refused.row < 14_000  # … around the middle.


@pytest.mark.parametrize(
    ("select", "row", "reason"),
    [
        (GOOD.replace("1::INTEGER", "CASE WHEN n = 700 THEN NULL ELSE 1 END"), 701, "column quantity: is empty"),
        (GOOD.replace("1::INTEGER", "(n % 2 + 1.5)::DECIMAL(9,1)"), 1, "column quantity: '1.5' is no INTEGER"),
        (GOOD.replace("1::INTEGER", "CASE WHEN n = 9 THEN 99999999999 ELSE 1 END"), 10, "'99999999999' is no INTEGER"),
        (GOOD.replace("1.5::DECIMAL(10,3)", "1.5::DOUBLE"), None, "holds DOUBLE, which is not exact"),
        (GOOD.replace("AS price", "AS prize"), None, "column price is missing"),
    ],
)
def test_a_parquet_file_of_other_types_is_taken_only_where_nothing_is_lost(
    shop: Shop, select: str, row: int | None, reason: str
) -> None:
    write_parquet(shop, select)
    refused = refusal(shop)
    assert refused.row == row
    assert reason in refused.reason


def test_a_wider_parquet_type_is_taken_when_every_value_fits(shop: Shop) -> None:
    write_parquet(shop, GOOD.replace("1::INTEGER", "1::BIGINT").replace("DECIMAL(10,3)", "DECIMAL(18,6)"))
    with loaded(shop.data, shop.mapping()) as connection:
        assert connection.execute("SELECT sum(quantity), sum(price)::VARCHAR FROM sales").fetchall() == [
            (20_480, "30720.000")
        ]
