"""Reads funnels, spend and breaks from the facts in ClickHouse."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from threading import Lock
from typing import Any, Final

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from contracts.identity import Realm
from contracts.position import Position
from query.ports import BadFilter, Page, ReadModelUnavailable, Reports, View
from query.readers.cursors import Key, decode_cursor, encode_cursor
from query.readers.report_sql import BREAKS, FUNNEL, FUNNEL_OF_DAYS, POSITION, SPEND

QUERY_SECONDS_MAX: Final = 10
CONNECT_TIMEOUT_SECONDS: Final = 5
_DAY_FIRST, _DAY_LAST = date(1970, 1, 1), date(2149, 6, 6)  # What ClickHouse's Date holds.

Row = dict[str, Any]


class ClickHouseReports:
    """Implements :class:`query.ports.Reports`. The stock HTTP client is synchronous: each query takes a thread.

    Every query names the realm; there is no way to ask for another's.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None
        self._connecting = Lock()

    async def position(self) -> Position:
        """What the facts show at least. Raises ReadModelUnavailable before they have begun."""
        rows = await self._rows(POSITION, {"name": "facts"})
        if not rows:
            raise ReadModelUnavailable("the facts are not built yet")
        return Position(rows[0]["shard"], rows[0]["epoch"], rows[0]["offset"])

    async def funnel(self, realm: Realm, filters: Mapping[str, str], *, cursor: str | None, limit: int) -> Page:
        """Per template, by template id. ``from``, ``until``: only what happened on days in ``[from, until)``, UTC.

        Raises BadCursor, BadFilter.
        """
        sql = FUNNEL_OF_DAYS if filters.keys() & {"from", "until"} else FUNNEL
        after = ("",) if cursor is None else decode_cursor("funnel", cursor, (str,))
        parameters = _report_filters(filters) | {"after": after[0]}
        rows = await self._page_rows(sql, realm, parameters, limit)
        return _page("funnel", rows, limit, lambda row: (row["template_id"],))

    async def spend(self, realm: Realm, filters: Mapping[str, str], *, cursor: str | None, limit: int) -> Page:
        """Per campaign, template and currency, over all days or those in ``[from, until)``, UTC.

        Raises BadCursor, BadFilter.
        """
        after = ("", "", "") if cursor is None else decode_cursor("spend", cursor, (str, str, str))
        parameters = _report_filters(filters) | dict(zip(("after_1", "after_2", "after_3"), after, strict=True))
        rows = await self._page_rows(SPEND, realm, parameters, limit)
        return _page("spend", rows, limit, lambda row: (row["campaign_id"], row["template_id"], row["currency"]))

    async def breaks(self, realm: Realm, filters: Mapping[str, str], *, cursor: str | None, limit: int) -> Page:
        """Breaks, oldest first. ``filters``: kind, status (``open``, ``closed``). Raises BadCursor."""
        after = (-(2**62), "") if cursor is None else decode_cursor("breaks", cursor, (int, str))
        parameters = {
            "kind": filters.get("kind", ""),
            "status": filters.get("status", ""),
            "break_id": "",
            "after_at": after[0],
            "after_id": after[1],
        }
        rows = await self._page_rows(BREAKS, realm, parameters, limit)
        page = _page("breaks", rows, limit, lambda row: (row["order_at"], row["break_id"]))
        return Page([_without_order(row) for row in page.items], page.next_cursor)

    async def a_break(self, realm: Realm, break_id: str) -> View | None:
        """One break with the events behind it."""
        parameters = {"kind": "", "status": "", "break_id": break_id, "after_at": -(2**62), "after_id": ""}
        rows = await self._page_rows(BREAKS, realm, parameters, 1)
        return _without_order(rows[0]) if rows else None

    def close(self) -> None:
        """Give back the connections."""
        with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def _page_rows(self, sql: str, realm: Realm, parameters: Mapping[str, Any], limit: int) -> list[Row]:
        told = {**parameters, "tenant": realm.tenant_id, "app": realm.app_id, "limit": limit + 1}
        return await self._rows(sql, told)

    async def _rows(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        return await asyncio.to_thread(self._query, sql, dict(parameters))

    def _query(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        try:
            result = self._connected().query(
                sql, parameters=parameters, settings={"max_execution_time": QUERY_SECONDS_MAX}
            )
        except (ClickHouseError, OSError) as error:
            raise ReadModelUnavailable(f"ClickHouse did not answer: {str(error).splitlines()[0]}") from error
        return [
            {name: _shown(value) for name, value in zip(result.column_names, row, strict=True)}
            for row in result.result_rows
        ]

    def _connected(self) -> Client:
        with self._connecting:
            if self._client is None:
                self._client = clickhouse_connect.get_client(
                    dsn=self._url,
                    autogenerate_session_id=False,  # One client for many threads.
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    send_receive_timeout=QUERY_SECONDS_MAX + CONNECT_TIMEOUT_SECONDS,
                )
            return self._client


def _report_filters(filters: Mapping[str, str]) -> dict[str, Any]:
    return {
        "template_id": filters.get("template_id", ""),
        "campaign_id": filters.get("campaign_id", ""),
        "currency": filters.get("currency", ""),
        "from": _day(filters, "from", _DAY_FIRST),
        "until": _day(filters, "until", _DAY_LAST),
    }


def _day(filters: Mapping[str, str], name: str, default: date) -> date:
    if name not in filters:
        return default
    try:
        day = date.fromisoformat(filters[name])
    except ValueError:
        raise BadFilter(name, "must be a day like 2026-01-31") from None
    if not _DAY_FIRST <= day <= _DAY_LAST:
        raise BadFilter(name, f"must be between {_DAY_FIRST} and {_DAY_LAST}")
    return day


def _page(listing: str, rows: Sequence[Row], limit: int, key: Callable[[Row], Key]) -> Page:
    items = rows[:limit]
    return Page(items, encode_cursor(listing, key(items[-1])) if len(rows) > limit else None)


def _without_order(row: View) -> View:
    return {name: value for name, value in row.items() if name != "order_at"}


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, date):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


def _is_reports(readers: ClickHouseReports) -> Reports:
    """Lets the type checker prove that the readers fit the port."""
    return readers
