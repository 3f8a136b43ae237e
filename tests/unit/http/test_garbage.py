"""What served a request is freed when it is over: nothing is left for the garbage collector, which stops everybody."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

import pytest

from infra.http.edge import Exchange
from tests.unit.http.conftest import STOCK, World, key_header

REQUESTS: Final = 2
CLAIMS: Final = "/v1/templates/t1/claims"
SOLD_OUT: Final = "/v1/templates/t2/claims"
CLAIM: Final = b'{"user_id": "u1"}'


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        pytest.param(CLAIMS, CLAIM, key_header("acme"), 201, id="accepted"),
        pytest.param(SOLD_OUT, CLAIM, key_header("acme"), 409, id="refused"),
        pytest.param("/v1/coupons/nope/lock", b'{"order_id": "o1"}', key_header("acme"), 404, id="unknown"),
        pytest.param(f"{CLAIMS}?dry_run=true", CLAIM, key_header("acme"), 200, id="dry_run"),
        pytest.param(f"{SOLD_OUT}?dry_run=true", CLAIM, key_header("acme"), 409, id="dry_run_refused"),
        pytest.param(f"{CLAIMS}?dry_run=maybe", CLAIM, key_header("acme"), 422, id="malformed_query"),
        pytest.param(CLAIMS, b'{"user_id": ', key_header("acme"), 400, id="malformed"),
        pytest.param(CLAIMS, b'{"user": "u1"}', key_header("acme"), 422, id="a_wrong_field"),
        pytest.param(CLAIMS, CLAIM, {"Authorization": "Bearer tsk_nobody_s"}, 401, id="a_stranger"),
        pytest.param(CLAIMS, CLAIM, key_header("analyst"), 403, id="without_the_scope"),
        pytest.param("/v1/nowhere", b"{}", key_header("acme"), 404, id="nowhere"),
    ],
)
async def test_no_request_leaves_garbage(
    world: World, path: str, body: bytes, headers: Mapping[str, str], status: int
) -> None:
    for user in range(STOCK):
        await asked(world, SOLD_OUT, b'{"user_id": "%d"}' % user, key_header("acme"))
    assert await asked(world, path, body, headers) == status
    with nothing_collected_but_at_the_end() as garbage:
        for _ in range(REQUESTS):
            assert await asked(world, path, body, headers) == status
    assert [each for each in garbage if isinstance(each, Exchange | TracebackType | FrameType)] == []


@contextmanager
def nothing_collected_but_at_the_end() -> Iterator[list[Any]]:
    """What was garbage at the end."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def asked(world: World, target: str, body: bytes, headers: Mapping[str, str]) -> int:
    """One request without a client, which would make garbage of its own; the answer's status."""
    path, _, query = target.partition("?")
    statuses: list[int] = []
    bodies = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return bodies.pop() if bodies else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await world.app(scope, receive, send)
    (status,) = statuses
    return status
