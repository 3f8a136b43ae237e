"""The largest lists that are let in: a distribution to a million users from a file, a batch of ten million codes."""

import json
import re
import urllib.request
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks.bench import Bench, Figure, Outcome, Side, Target
from benchmarks.http_servers import Running, api, worker
from benchmarks.targets.http import ANSWER_SECONDS, fetched, make_template, request, send
from benchmarks.verification import verify
from benchmarks.workloads import HOT
from infra.processes import wait_until

REPEATED: Final = 1_000  # So many rows name a user who was named before.
ISSUED_SECONDS: Final = 600.0
READ_BYTES: Final = 1 << 16


def distribution(bench: Bench) -> Outcome:
    """From the first byte of the file to the last coupon: the runner works while progress is asked for, over HTTP."""
    users = bench.effort.users
    with bench.postgres.database() as dsn:
        with ExitStack() as stack:
            running = stack.enter_context(api(dsn, bench.postgres.folder))
            make_template(running)
            stack.enter_context(worker("distributions", dsn, bench.postgres.folder))
            bench.say(f"a list of {users:,} users")
            rows = chain(range(users - REPEATED), range(REPEATED))
            file = b"user_id\r\n" + b"".join(b"u%09d\r\n" % row for row in rows)
            started = perf_counter()
            answer = fetched(running, f"/v1/distributions?template_id={HOT}", file, "text/csv")
            name = json.loads(answer)["data"]["distribution_id"]
            taken = perf_counter() - started
            looks: list[tuple[float, int]] = []

            def is_over() -> bool:
                told = _get(running, f"/v1/distributions/{name}")
                looks.append((perf_counter() - started, told["decided"]))
                bench.say(f"{told['decided']:,} of {users:,} decided")
                return bool(told["status"] == "completed")

            if not wait_until(is_over, timeout_seconds=ISSUED_SECONDS, every_seconds=0.5):
                raise TimeoutError(f"it was not over within {ISSUED_SECONDS:.0f} s")
            told = _get(running, f"/v1/distributions/{name}")
            _, *refusals = fetched(running, f"/v1/distributions/{name}/refusals").splitlines()
        seconds = looks[-1][0]
        issuing = (users - looks[0][1]) / (seconds - looks[0][0]) if len(looks) > 1 else users / seconds
        side = Side("users of a list", "users/s", [Figure(users / seconds, {"issuing_per_second": issuing, **told})])
        outcome = Outcome(users / seconds, side.values, [side], {"looks": looks})
        outcome.notes.append(
            f"{len(file) / 1e6:.0f} MB of CSV taken in and stored within {taken:.1f} s, "
            f"all decided after {seconds:.1f} s ({issuing:,.0f} users/s once it ran); {told['issued']:,} coupons, "
            f"{told['refused']:,} refused, {len(refusals):,} rows in the file of those"
        )
        if (told["issued"], told["refused"], len(refusals)) != (users - REPEATED, REPEATED, REPEATED):
            raise RuntimeError(f"{told} and {len(refusals)} refused rows, of {REPEATED} repeated ones")
        return verify(bench, outcome, dsn)


def codes(bench: Bench) -> Outcome:
    """The export is read as it comes; every code is held against all others."""
    wanted = bench.effort.codes
    with bench.postgres.database() as dsn, api(dsn, bench.postgres.folder) as running:
        make_template(running)
        batch = send(running, "/v1/code-batches", {"template_id": HOT, "count": wanted})["data"]["batch_id"]
        bench.say(f"exporting {wanted:,} codes")
        before, started = _memory_peak(running), perf_counter()
        pieces, first = [], 0.0
        with urllib.request.urlopen(
            request(running, f"/v1/code-batches/{batch}/codes"), timeout=ANSWER_SECONDS
        ) as export:
            while piece := export.read1(READ_BYTES):
                first = first or perf_counter() - started
                pieces.append(piece)
        seconds = perf_counter() - started
        grown = _memory_peak(running) - before
    bench.say("comparing all codes")
    _, *lines = b"".join(pieces).splitlines()
    seen = {line.partition(b",")[2] for line in lines}
    if len(seen) != wanted or len(lines) != wanted:
        raise RuntimeError(f"{len(lines):,} codes, {len(seen):,} different ones, of {wanted:,}")
    side = Side("codes of a batch", "codes/s", [Figure(wanted / seconds, {"seconds": seconds})])
    outcome = Outcome(wanted / seconds, side.values, [side])
    outcome.notes.append(
        f"{wanted:,} codes, all different, in {seconds:.0f} s, the first after {first * 1_000:.0f} ms; "
        f"the API's memory grew by {grown / 1e6:.0f} MB"
    )
    return outcome


def _get(running: Running, path: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(fetched(running, path))["data"]
    return told


def _memory_peak(running: Running) -> int:
    """The most memory that the process ever had, in bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{running.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1_024 * int(found[1])


DISTRIBUTION: Final = Target(
    key="million",
    title="users/s of a distribution to 1,000,000 from a CSV file, over HTTP",
    how="`tessera serve` takes the file in, `tessera worker distributions` carries it out; a thousand users are named "
    "twice; progress, and the file of those refused, are asked for over HTTP",
    run=distribution,
    unit="",
    by_default=False,
)
CODE_BATCH: Final = Target(
    key="codes",
    title="codes/s of a batch of 10,000,000, exported as a stream",
    how="generated and exported over HTTP, read as it comes; all codes are held against each other",
    run=codes,
    unit="",
    by_default=False,
)
