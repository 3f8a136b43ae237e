"""Processor time as /proc tells it."""

import os
import subprocess
import sys

import pytest

from benchmarks.processor import Meter, ProcessorTime, micros_each, of_threads, of_tree, parse_stat

TICK = os.sysconf("SC_CLK_TCK")


def test_a_name_with_brackets_and_spaces_does_not_shift_the_fields() -> None:
    line = "42 (post) gres: (x) S 7 42 42 0 -1 4194560 100 0 0 0 250 50 30 20 20 0 1 0 12345 0 0"
    stat = parse_stat(line)
    assert stat.parent == 7
    assert stat.own == ProcessorTime(250 / TICK, 50 / TICK)
    assert stat.ended_children == ProcessorTime(30 / TICK, 20 / TICK)


def test_children_that_have_ended_still_count() -> None:
    """The server processes of pgbench are gone when it is asked what they used."""
    meter = Meter({"us": os.getpid()})
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    assert meter.used()["us"].total > 0.05


def test_a_process_that_is_gone_used_nothing_and_the_main_thread_bears_the_number_of_the_process() -> None:
    assert of_tree(2**22 + 1) == ProcessorTime()
    assert os.getpid() in of_threads(os.getpid())


def test_cost_is_told_in_microseconds_per_operation() -> None:
    assert micros_each({"API": ProcessorTime(0.5, 0.5)}, 10_000) == {"API": pytest.approx(100.0)}
    assert micros_each({"API": ProcessorTime(0.5, 0.5)}, 0) == {"API": 0.0}
