"""A small shop's files and its mapping, for tests that damage one thing at a time."""

from dataclasses import dataclass
from pathlib import Path

from infra.imports.mapping import Mapping, read_mapping

HEADER = "order_id,placed_at,customer,quantity,price"
ROWS = (
    "o1,2024-03-01 09:00:00,anna,2,10.005",
    "o2,2024-03-01 10:30:00,,1,0.000",
    "o3,2024-03-02 08:15:00,carl,-1,0.000",
    "o4,2024-03-02 08:15:00,dora,3,1.250",
)

MAPPING = """
name = "corner_shop"
about = "Orders of a corner shop"
realm = { tenant_id = "corner", app_id = "shop" }
currency = "GBP"

[files.sales]
path = "sales.csv"

[files.sales.columns]
order_id = "VARCHAR NOT NULL"
placed_at = "TIMESTAMP NOT NULL"
customer = "VARCHAR"
quantity = "INTEGER NOT NULL"
price = "DECIMAL(10,3) NOT NULL"

[[statements]]
name = "orders"
sql = "orders.sql"

[[statements]]
name = "payments"
sql = "payments.sql"

[[totals]]
name = "orders, one by one"
source = "SELECT order_id, half_even(quantity * price * 100) FROM sales WHERE quantity > 0"
events = '''
SELECT data ->> 'order_id', (data -> 'lines' -> 0 ->> 'amount_minor')::bigint FROM events
WHERE type = 'order.placed.v1' AND tenant_id = %(tenant_id)s AND app_id = %(app_id)s
'''
"""

ORDERS = """
SELECT order_id AS row_key,
       placed_at AT TIME ZONE 'Europe/London' AS occurred_at,
       'place_order' AS command,
       {
           'order_id': order_id, 'user_id': customer, 'currency': 'GBP',
           'lines': [{
               'line_id': '1', 'sku': 'thing', 'quantity': quantity,
               'unit_price_minor': half_even(price * 100),
               'amount_minor': half_even(quantity * price * 100),
               'exact_amount': CAST(quantity * price AS VARCHAR)
           }]
       } AS fields,
       CASE WHEN quantity < 0 THEN 'negative_quantity' END AS set_aside,
       'quantity ' || quantity AS detail,
       CAST(quantity * price AS DECIMAL(12, 3)) AS amount,
       half_even(quantity * price * 100) AS booked_minor
FROM sales
"""

PAYMENTS = """
SELECT order_id AS row_key,
       placed_at AT TIME ZONE 'Europe/London' AS occurred_at,
       'report_payment' AS command,
       {
           'payment_id': 'p-' || order_id, 'order_id': order_id, 'status': 'succeeded',
           'amount_minor': half_even(quantity * price * 100), 'currency': 'GBP'
       } AS fields,
       0 AS source_rows
FROM sales WHERE quantity > 0 AND price > 0
"""


@dataclass(frozen=True)
class Shop:
    """Where one test's data and mapping lie."""

    data: Path
    mapping_folder: Path

    @property
    def sales(self) -> Path:
        """The only file of the data."""
        return self.data / "sales.csv"

    def mapping(self) -> Mapping:
        """The mapping as it is on disk now."""
        return read_mapping(self.mapping_folder)

    def write_rows(self, *rows: str, header: str = HEADER, end: str = "\n") -> None:
        """Replace the data."""
        self.sales.write_text("\n".join((header, *rows)) + end, encoding="utf-8")

    def edit(self, file: str, old: str, new: str) -> None:
        """Change one place of the mapping."""
        path = self.mapping_folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")


def open_shop(folder: Path) -> Shop:
    """Write the sample below a folder."""
    shop = Shop(folder / "data", folder / "mapping")
    shop.data.mkdir()
    shop.mapping_folder.mkdir()
    shop.write_rows(*ROWS)
    for name, text in (("mapping.toml", MAPPING), ("orders.sql", ORDERS), ("payments.sql", PAYMENTS)):
        (shop.mapping_folder / name).write_text(text, encoding="utf-8")
    return shop
