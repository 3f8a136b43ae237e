"""The capacity model: linear, cautious, and honest about what was not measured."""

import json
from typing import Any

import pytest

from benchmarks.capacity import (
    Load,
    NotMeasured,
    Part,
    Shape,
    first_to_saturate,
    most_on_one_shard,
    need,
    parts_of,
    plan,
    shape_of,
    shards,
)
from benchmarks.publish import MEASURED

API = Part("API", "process", 1.0, {"claim": 100.0, "order": 1_000.0}, by_shard=True)
STORE = Part("store", "node", 8.0, {"claim": 400.0}, by_shard=True)
KAFKA = Part("Kafka", "broker", 8.0, {"event": 40.0, "claim": 1.0})
SHAPE = Shape(2.0, 5.0, 2_000.0, 8_000.0, 1_500.0)


def test_units_are_as_many_as_keep_each_below_its_share_of_the_time() -> None:
    rates = SHAPE.rates(Load("x", claims=7_000, orders=0))
    told = need(API, rates)
    assert told.cores_busy == pytest.approx(0.7)
    assert told.units == 1  # Exactly at the headroom.
    assert need(API, SHAPE.rates(Load("x", 7_001, 0))).units == 2
    assert need(API, SHAPE.rates(Load("x", 7_000, 70))).units == 2
    assert need(API, SHAPE.rates(Load("x", 0, 0))).units == 1


def test_twice_the_load_needs_twice_the_cores() -> None:
    one, two = (plan([API, STORE, KAFKA], SHAPE, Load("x", 1_000 * n, 100 * n)) for n in (1, 2))
    assert [2 * each.cores_busy for each in one] == pytest.approx([each.cores_busy for each in two])


def test_orders_and_claims_are_events_to_followers() -> None:
    assert SHAPE.rates(Load("x", 10, 2)) == {"claim": 10, "order": 2, "event": 30}


def test_the_part_that_one_unit_of_fills_first_is_named() -> None:
    needs = plan([API, STORE, KAFKA], SHAPE, Load("x", 1_000, 0))
    assert first_to_saturate(needs).part is API
    assert shards(plan([API, STORE, KAFKA], SHAPE, Load("x", 70_000, 0))) == 10


def test_one_shard_takes_what_its_busiest_part_takes() -> None:
    most, part = most_on_one_shard([API, STORE, KAFKA], SHAPE)
    assert part is API
    assert most == pytest.approx(7_000)
    assert most_on_one_shard([API, STORE], SHAPE, "order")[0] == pytest.approx(700)


def test_what_was_published_feeds_the_model() -> None:
    result = json.loads(MEASURED.read_text())
    parts, shape = parts_of(result), shape_of(result)
    assert {part.name for part in parts if part.by_shard} >= {"API: engine", "saga worker", "PostgreSQL"}
    assert all(micros > 0 for part in parts for micros in part.costs.values())
    assert shape.events_per_order > shape.events_per_claim >= 1


def test_a_figure_that_is_missing_is_asked_for_by_its_target() -> None:
    nothing: dict[str, Any] = {"targets": {}}
    with pytest.raises(NotMeasured, match="--only p15"):
        parts_of(nothing)
    with pytest.raises(NotMeasured, match="--only p13"):
        shape_of(nothing)
