"""The Complete Journey: 27 mailed coupon campaigns, reconciled with their oracle coupon by coupon."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.world import Imported, imported

pytestmark = [pytest.mark.data, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

REALM = "tenant_id = 'completejourney' AND app_id = 'grocery'"
CLAIMS, REDEMPTIONS, FIRST_USES, SECOND_USES = 108_590, 2_102, 2_075, 27


REDEEMED = f"FROM events WHERE {REALM} AND type = 'coupon.redeemed.v1'"
CLAIMED = f"FROM events WHERE {REALM} AND type = 'coupon.claimed.v1'"
EXPIRED = f"FROM events WHERE {REALM} AND type = 'coupon.expired.v1'"
WITH_CAMPAIGNS = "FROM '{folder}/redemptions.parquet' JOIN '{folder}/campaigns.parquet' USING (campaign_id)"


@pytest.fixture(scope="module")
def journey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imported]:
    """Everything imported, expired and digested."""
    tmp: Path = tmp_path_factory.mktemp("completejourney")
    with imported(request, "completejourney", tmp) as found:
        yield found


def test_every_total_of_the_mapping_is_read_back_from_both_stores(journey: Imported) -> None:
    assert [(total.name, total.store) for total in journey.report.totals if not total.agrees] == []
    assert {total.store for total in journey.report.totals} == {"PostgreSQL", "ClickHouse"}
    assert journey.report.agrees


def test_applied_refused_and_parked_rows_are_all_rows(journey: Imported) -> None:
    placed = {part.name: (part.tally.as_json()["rows"], part.size.rows) for part in journey.report.statements}
    refused = {"applied": {"ok": FIRST_USES}, "refused": {"already_redeemed": SECOND_USES}}
    assert placed == {
        "templates": ({"applied": {"ok": 1_197}}, 1_197),
        "activations": ({"applied": {"ok": 1_197}}, 1_197),
        "claims": ({"applied": {"ok": CLAIMS}}, CLAIMS),
        "locks": (refused, REDEMPTIONS),
        "redemptions": (refused, REDEMPTIONS),
    }


# By campaign: households, coupons, issues, redemptions, redeeming households, redeemed coupons.

LOG_BY_CAMPAIGN = f"""
SELECT (data -> 'about' ->> 'campaign_id')::int,
       count(DISTINCT data -> 'about' ->> 'user_id') FILTER (WHERE type = 'coupon.claimed.v1'),
       count(*) FILTER (WHERE type = 'coupon.claimed.v1'),
       count(*) FILTER (WHERE type = 'coupon.redeemed.v1'),
       count(DISTINCT data -> 'about' ->> 'user_id') FILTER (WHERE type = 'coupon.redeemed.v1'),
       count(DISTINCT data -> 'about' ->> 'template_id') FILTER (WHERE type = 'coupon.redeemed.v1')
FROM events WHERE {REALM} AND type IN ('coupon.claimed.v1', 'coupon.redeemed.v1') GROUP BY 1 ORDER BY 1
"""
FACTS_BY_CAMPAIGN = f"""
SELECT toInt32(campaign_id) AS campaign,
       countDistinctIf(user_id, kind = 'claimed'), countIf(kind = 'claimed'), countIf(kind = 'redeemed'),
       countDistinctIf(user_id, kind = 'redeemed'), countDistinctIf(template_id, kind = 'redeemed')
FROM coupon_facts FINAL WHERE {REALM} AND kind IN ('claimed', 'redeemed') GROUP BY campaign ORDER BY campaign
"""


def second_uses_by_campaign(journey: Imported) -> dict[int, int]:
    found = journey.source(
        "SELECT campaign_id, count(*) FROM '{folder}/redemptions.parquet' WHERE use_no > 1 GROUP BY campaign_id"
    )
    return dict(found)


def test_both_stores_say_of_each_campaign_what_the_oracle_says(journey: Imported) -> None:
    seconds = second_uses_by_campaign(journey)
    expected = [
        (
            it["campaign_id"],
            it["households"],
            it["issues"],
            it["redemptions"] - seconds.get(it["campaign_id"], 0),
            it["redeeming_households"],
            it["redeemed_upcs"],
        )
        for it in sorted(journey.oracle["per_campaign"], key=lambda it: it["campaign_id"])
    ]
    assert sum(row[3] for row in expected) + sum(seconds.values()) == REDEMPTIONS
    assert journey.log(LOG_BY_CAMPAIGN) == expected
    assert journey.facts_say(FACTS_BY_CAMPAIGN) == expected


def test_every_first_use_is_applied_and_every_second_one_refused_with_its_reason(journey: Imported) -> None:
    first, second = (
        journey.source(
            f"SELECT redemption_id FROM '{{folder}}/redemptions.parquet' WHERE use_no {uses} ORDER BY redemption_id"
        )
        for uses in ("= 1", "> 1")
    )
    assert (len(first), len(second)) == (FIRST_USES, SECOND_USES)
    assert first == journey.log(f"SELECT substr(data ->> 'order_id', 2)::int {REDEEMED} ORDER BY 1")
    assert first == journey.facts_say(
        f"SELECT toInt32(substring(order_id, 2)) AS id FROM coupon_facts FINAL "
        f"WHERE {REALM} AND kind = 'redeemed' ORDER BY id"
    )
    expected = [(row, "refused", "already_redeemed") for (row,) in second]
    assert expected == journey.log(
        "SELECT (line ->> 'row')::int, line ->> 'outcome', line ->> 'code' "
        "FROM events, jsonb_array_elements(data -> 'rows') AS line "
        f"WHERE {REALM} AND type = 'import.rows_set_aside.v1' AND data ->> 'statement' = 'redemptions' ORDER BY 1"
    )
    assert expected == journey.facts_say(
        f"SELECT toInt32(source_row) AS id, outcome, code FROM import_facts FINAL "
        f"WHERE {REALM} AND statement = 'redemptions' ORDER BY id"
    )


def test_the_household_with_more_redemptions_than_issues_is_one_of_the_second_uses(journey: Imported) -> None:
    by_household = journey.source(
        "SELECT campaign_id, household_id, count(*), count(DISTINCT coupon_upc), "
        "max(redemption_id) FILTER (use_no > 1) "
        f"{WITH_CAMPAIGNS} WHERE campaign_type = 'A' GROUP BY ALL HAVING count(*) > 16"
    )
    assert by_household == [(13, 2489, 17, 16, 838)]
    found = journey.log(
        f"SELECT type, count(*) FROM events WHERE {REALM} AND kind = 'coupon' "
        "AND data -> 'about' ->> 'campaign_id' = '13' AND data -> 'about' ->> 'user_id' = '2489' "
        "GROUP BY type ORDER BY type"
    )
    assert found == [("coupon.claimed.v1", 16), ("coupon.locked.v1", 16), ("coupon.redeemed.v1", 16)]
    refused = journey.facts_say(f"SELECT code FROM import_facts FINAL WHERE {REALM} AND source_row = '838'")
    assert refused == [("already_redeemed",), ("already_redeemed",)]  # The lock and the redemption.


def test_campaigns_of_type_a_give_sixteen_to_each_household_and_all_that_it_redeemed(journey: Imported) -> None:
    sixteen = journey.log(
        "SELECT count(*), sum(n) FROM (SELECT count(*) AS n "
        f"{CLAIMED} AND data ->> 'reference' = 'sixteen-per-household' "
        "GROUP BY data -> 'about' ->> 'campaign_id', data -> 'about' ->> 'user_id' HAVING count(*) = 16) AS households"
    )
    assert sixteen == [(3_647, 58_352)]
    listed = journey.log(f"SELECT count(*) {CLAIMED} AND data ->> 'reference' = 'issues_bc'")
    assert listed == [(50_238,)]


def test_whatever_was_not_redeemed_expired_at_the_end_of_its_last_day(journey: Imported) -> None:
    ends = journey.source(
        "SELECT campaign_id, epoch(((end_date + 1)::TIMESTAMP AT TIME ZONE 'America/New_York'))::BIGINT "
        "FROM '{folder}/campaigns.parquet' ORDER BY 1"
    )
    in_log = journey.log(
        "SELECT DISTINCT (data -> 'about' ->> 'campaign_id')::int, "
        f"extract(epoch FROM (data ->> 'expired_at')::timestamptz)::bigint {EXPIRED} ORDER BY 1"
    )
    in_facts = journey.facts_say(
        "SELECT DISTINCT toInt32(campaign_id) AS id, toInt64(toUnixTimestamp(assumeNotNull(effective_at))) "
        f"FROM coupon_facts FINAL WHERE {REALM} AND kind = 'expired' ORDER BY id"
    )
    assert in_log == ends
    assert in_facts == ends
    assert journey.log(f"SELECT count(*) {EXPIRED}") == [(CLAIMS - FIRST_USES,)]


def test_the_last_day_of_a_campaign_counts(journey: Imported) -> None:
    on_last_day = journey.source(
        f"SELECT redemption_id {WITH_CAMPAIGNS} WHERE redemption_date = end_date AND use_no = 1"
    )
    orders = ", ".join(f"'r{row}'" for (row,) in on_last_day)
    found = journey.log(f"SELECT count(*) {REDEEMED} AND data ->> 'order_id' IN ({orders})")
    assert found == [(len(on_last_day),)]
    assert 0 < len(on_last_day) <= journey.oracle["quirks"]["on_last_day"]


def test_nothing_was_claimed_locked_or_redeemed_twice(journey: Imported) -> None:
    found = journey.log(
        "SELECT type, count(*), count(DISTINCT stream) FROM events "
        f"WHERE {REALM} AND kind = 'coupon' GROUP BY type ORDER BY type"
    )
    assert found == [
        ("coupon.claimed.v1", CLAIMS, CLAIMS),
        ("coupon.expired.v1", CLAIMS - FIRST_USES, CLAIMS - FIRST_USES),
        ("coupon.locked.v1", FIRST_USES, FIRST_USES),
        ("coupon.redeemed.v1", FIRST_USES, FIRST_USES),
    ]
