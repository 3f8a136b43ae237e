"""The demo, small: it starts its own stack, plays its day, and ends green by itself."""

import json

import pytest

from tests.e2e.conftest import run_cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_the_demo_ends_green_and_finds_exactly_what_was_planted() -> None:
    done = run_cli("demo", "--scale", "0.05", "--json", timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["ok"]
    assert result["wrong"] == []
    assert result["figures"]["rush"]["claims"] == {"PostgreSQL": 50, "Redis": 50, "ClickHouse": 50}
    planted = sorted(f"{fault['kind']} {fault['subject']}" for fault in result["planted"])
    assert sorted(result["reported"]) == planted
    assert len(planted) == 13  # Every kind of break that there is.
