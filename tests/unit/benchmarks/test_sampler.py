"""The sampler and the watch over the garbage collector: who is at work is charged, who waits is not."""

import gc
import threading

from benchmarks.garbage import GarbageWatch
from benchmarks.sampler import OTHER, Sampler, part_of
from infra.processes import wait_until


def test_the_innermost_file_that_is_known_names_the_part() -> None:
    assert part_of(["/lib/enum.py", "/x/command/domain/coupon.py", "/x/command/engine.py"]) == "decision"
    assert part_of(["/site-packages/psycopg/cursor.py", "/x/infra/postgres/log.py"]) == "PostgreSQL driver"
    assert part_of(["/lib/enum.py"]) == OTHER


def test_a_thread_at_work_is_charged_and_one_that_waits_is_not() -> None:
    release, done = threading.Event(), threading.Event()

    def at_work() -> None:
        while not done.is_set():
            sum(range(1_000))

    waiter = threading.Thread(target=release.wait, name="waits")
    worker = threading.Thread(target=at_work, name="works")
    sampler = Sampler()
    for thread in (waiter, worker, sampler):
        thread.start()

    def is_seen() -> bool:
        return any(each["function"].endswith(":at_work") for each in sampler.result()["functions"])

    assert wait_until(is_seen, timeout_seconds=60.0)
    done.set()
    release.set()
    sampler.stop()
    for thread in (waiter, worker):
        thread.join()
    told = sampler.result()
    by_thread = {each["thread"]: each["share"] for each in told["by_thread"]}
    assert by_thread["works"] > by_thread.get("waits", 0.0)
    assert abs(sum(told["parts"].values()) - 1.0) < 1e-9
    assert any(each["function"].endswith(":at_work") for each in told["functions"])


def test_collections_are_counted_while_somebody_watches() -> None:
    with GarbageWatch() as watch:
        gc.collect()
    gc.collect()
    told = watch.summary()
    assert told["collections"] == 1
    assert 0 < told["longest_ms"] <= told["seconds"] * 1_000
