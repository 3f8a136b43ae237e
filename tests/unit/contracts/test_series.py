"""A series of events is what its events are one by one: the same values, the same bytes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from command.domain.coupon import Origin, claim, claim_each
from command.domain.template import Template
from command.ports import NewEvent, NewEvents, NewSeries
from contracts.envelope import Metadata
from contracts.events import CouponClaimed
from contracts.events.series import EventSeries
from contracts.terms import CouponRef
from infra.postgres.mapper import EventMapper
from tests.builders import terms

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
# Whatever PostgreSQL can hold, and what looks like a mark, a blank or JSON.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["field0", '"field1"', "field_", "%s", "%", '","', "\\", '"', "é", "\x7f", "\u2028", "{}"]
)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, st.integers(1, 10**9)), min_size=1, max_size=5)


def claimed(common: str, rows: Sequence[tuple[str, str, int]]) -> EventSeries:
    """Coupons that differ in id, user and number; all other texts are ``common``."""
    about = CouponRef(
        template_id=common,
        terms_version=1,
        campaign_id=common,
        shop_id=common,
        source="shop",
        user_id="",
        currency=common,
    )
    like = CouponClaimed(
        coupon_id="",
        about=about,
        channel="distribution",
        reference=common,
        nth=0,
        valid_from=NOON,
        valid_until=NOON,
    )
    coupon_ids, user_ids, nths = zip(*rows, strict=True)
    return EventSeries(like, {("nth",): nths, ("about", "user_id"): user_ids, ("coupon_id",): coupon_ids})


def stored(part: NewEvent | NewSeries) -> list[bytes]:
    events = NewEvents()
    events.append(part)
    return EventMapper().states_of(events)


@given(TEXTS, TEXTS, ROWS)
@example("field%0", "%d", [("field0", "field1", 1), ("a", 'a",', 2)])
def test_a_series_is_stored_byte_for_byte_as_its_events_would_be(
    common: str, event_id: str, rows: list[tuple[str, str, int]]
) -> None:
    series = NewSeries(
        ["acme/shop%2F1/coupon/c"] * len(rows),
        claimed(common, rows),
        [f"{event_id}{number}" for number in range(len(rows))],
        Metadata("", NOON, NOON, common, common, "corr", None, common),
    )
    assert stored(series) == [state for event in series for state in stored(event)]
    assert [event.event for event in series] == [
        CouponClaimed(**{**dict(claimed(common, rows).like), **changed(common, *row)}) for row in rows
    ]


def changed(common: str, coupon_id: str, user_id: str, nth: int) -> dict[str, Any]:
    """What of an event is its own."""
    about = claimed(common, [(coupon_id, user_id, nth)]).like
    assert isinstance(about, CouponClaimed)
    return {"coupon_id": coupon_id, "nth": nth, "about": about.about.model_copy(update={"user_id": user_id})}


@given(st.lists(st.tuples(TEXTS, st.integers(1, 9)), min_size=1, max_size=4))
def test_claims_of_one_chunk_are_what_single_claims_would_be(claims: list[tuple[str, int]]) -> None:
    template, origin = Template(template_id="t1", terms_version=1, terms={1: terms()}), Origin("distribution", "d1")
    ids = [f"c{number}" for number in range(len(claims))]
    assert list(claim_each(template, ids, claims, origin, now=NOON)) == [
        claim(template, coupon_id, user_id, nth, origin, now=NOON)[0]
        for coupon_id, (user_id, nth) in zip(ids, claims, strict=True)
    ]


def test_columns_of_different_lengths_make_no_series() -> None:
    like = claimed("x", [("c", "u", 1)]).like
    with pytest.raises(ValueError, match="one length"):
        EventSeries(like, {("nth",): [1, 2], ("coupon_id",): ["c1"]})


def test_a_series_counts_event_by_event_among_others() -> None:
    series = NewSeries(
        ["a/b/coupon/c1", "a/b/coupon/c2"],
        claimed("x", [("c1", "u1", 1), ("c2", "u2", 1)]),
        ["e1", "e2"],
        Metadata("", NOON, NOON, "key", "cmd", "corr"),
    )
    single = next(iter(series))
    events = NewEvents()
    for part in (single, series, single):
        events.append(part)
    assert (len(events), [event.metadata.event_id for event in events]) == (4, ["e1", "e1", "e2", "e1"])
    assert single in events
