"""A mapping is found by name or path, and every mistake in it is named with its place."""

from pathlib import Path

import pytest

from infra.imports.errors import BadMapping
from infra.imports.job import job_of
from infra.imports.mapping import find_mapping, shipped_mappings
from tests.unit.imports.samples import Shop


def test_the_shipped_mappings_are_found_by_name() -> None:
    assert shipped_mappings() == ["completejourney", "online_retail"]
    for name in shipped_mappings():
        assert find_mapping(name).name == name


def test_anybodys_mapping_is_found_by_the_path_of_its_folder(shop: Shop) -> None:
    assert find_mapping(str(shop.mapping_folder)).name == "corner_shop"


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadMapping, match=r"no_such: neither a folder .* \(completejourney, online_retail\)"):
        find_mapping("no_such")


def test_a_name_does_not_lead_out_of_the_shipped_folder(tmp_path: Path) -> None:
    with pytest.raises(BadMapping):
        find_mapping("../mappings/../../nowhere")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('path = "sales.csv"', 'path = "../sales.csv"', r"files\.sales\.path"),
        ('path = "sales.csv"', 'path = "sales.xlsx"', r"files\.sales\.path"),
        ('price = "DECIMAL(10,3) NOT NULL"', 'price = "DOUBLE"', r"files\.sales\.columns\.price"),
        ('sql = "payments.sql"', 'sql = "absent.sql"', "absent.sql"),
        ('name = "payments"', 'name = "orders"', "two statements share a name"),
        ('currency = "GBP"', 'currency = "XXX"', "not an ISO 4217 currency code"),
        ('currency = "GBP"', 'curency = "GBP"', "curency"),
        ("[[statements]]", "[[statements", "mapping.toml"),
        ("events = '''", "elsewhere = '''", "elsewhere"),
    ],
)
def test_a_mistake_in_the_mapping_is_named_with_its_place(shop: Shop, old: str, new: str, reason: str) -> None:
    shop.edit("mapping.toml", old, new)
    with pytest.raises(BadMapping, match=reason):
        shop.mapping()


def test_the_digest_follows_what_decides_about_rows_and_not_how_they_are_checked(shop: Shop) -> None:
    before = shop.mapping().digest
    shop.edit("mapping.toml", 'name = "orders, one by one"', 'name = "orders"')
    assert shop.mapping().digest == before
    shop.edit("orders.sql", "'sku': 'thing'", "'sku': 'other'")
    assert shop.mapping().digest != before


def test_an_import_has_the_mappings_name_and_realm_unless_told_otherwise(shop: Shop) -> None:
    job = job_of(shop.data, shop.mapping())
    assert (job.import_id, job.realm) == ("corner_shop", ("corner", "shop"))
    assert job_of(shop.data, shop.mapping(), import_id="march-2024").import_id == "march-2024"


@pytest.mark.parametrize("import_id", ["", "a:b", "a b", "@clock", "x" * 64, "ä"])
def test_an_imports_name_is_safe_inside_command_ids(shop: Shop, import_id: str) -> None:
    with pytest.raises(BadMapping, match="name"):
        job_of(shop.data, shop.mapping()).__class__(shop.data, shop.mapping(), shop.mapping().realm, import_id)
