"""Codes as they are served, over real PostgreSQL: the first key is made on the way, and one of many users wins."""

import asyncio

import httpx

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
