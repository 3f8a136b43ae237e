"""Codes as they are served, over real PostgreSQL: the first key is made on the way, and one of many users wins."""

import asyncio

import httpx
import pytest

from infra.codes.sealer import Sealer
from tests.integration.http.conftest import Server
from tests.unit.http.test_codes import exported, generated, used


async def test_fifty_users_race_for_one_code_of_a_fresh_realm(client: httpx.AsyncClient, server: Server) -> None:
    batch = await generated(client, 20_000)
    codes = await exported(client, batch)
    assert len(set(codes)) == 20_000
    answers = await asyncio.gather(*(used(client, codes[-1], f"u{nth}") for nth in range(50)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
    shown = (await client.get(f"/v1/code-batches/{batch}")).json()["data"]
    assert (shown["generated"], shown["used"]) == (20_000, 1)
    refused = await client.get(f"{server.url}/metrics")
    assert 'tessera_codes_refused_total{reason="code_used"} 49.0' in refused.text


async def test_ten_million_codes_come_as_they_are_made_and_stop_when_nobody_reads_on(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, seal_run = [], Sealer.seal_run

    def counted(sealer: Sealer, number: int, first: int, count: int) -> list[str]:
        made.append(count)
        return seal_run(sealer, number, first, count)

    monkeypatch.setattr(Sealer, "seal_run", counted)
    batch = await generated(client, 10_000_000)
    async with client.stream("GET", f"/v1/code-batches/{batch}/codes") as export:
        assert "content-length" not in export.headers  # Nobody knows it yet.
        lines = export.aiter_lines()
        first = [await anext(lines) for _ in range(20_001)]  # Several pieces.
    assert sum(made) < 1_000_000  # What fits into buffers.
    assert len({line.partition(",")[2] for line in first[1:]}) == 20_000
    assert (await client.get("/health/live")).status_code == 200
