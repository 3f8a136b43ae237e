"""The SQL of the reports, over the views that analysts use too. Every query is bound to one realm."""

from typing import Final

POSITION: Final = "SELECT shard, epoch, `offset` FROM projection_positions FINAL WHERE name = {name:String}"

_REALM: Final = "tenant_id = {tenant:String} AND app_id = {app:String}"

_FILTERS: Final = """
    ({template_id:String} = '' OR template_id = {template_id:String})
    AND ({campaign_id:String} = '' OR campaign_id = {campaign_id:String})
    AND ({currency:String} = '' OR currency = {currency:String})
"""

_COUNTS: Final = "claimed, refused, refused_by_code, locked, redeemed, released, returned, expired, revoked"

# A refusal that names no template ('') belongs to no funnel.
FUNNEL: Final = f"""
    SELECT template_id, name, campaign_id, shop_id, currency, stock, {_COUNTS}, redeemed_minor, returned_minor
    FROM coupon_funnel
    WHERE {_REALM} AND template_id > {{after:String}} AND {_FILTERS}
    ORDER BY template_id
    LIMIT {{limit:UInt32}}
"""

FUNNEL_OF_DAYS: Final = f"""
    SELECT
        funnel.template_id AS template_id, name, funnel.campaign_id AS campaign_id, funnel.shop_id AS shop_id,
        funnel.currency AS currency, stock, days.claimed AS claimed, refusals.refused AS refused,
        refusals.refused_by_code AS refused_by_code, days.locked AS locked, days.redeemed AS redeemed,
        days.released AS released, days.returned AS returned, days.expired AS expired, days.revoked AS revoked,
        days.redeemed_minor AS redeemed_minor, days.returned_minor AS returned_minor
    FROM
    (
        SELECT template_id, name, campaign_id, shop_id, currency, stock FROM coupon_funnel
        WHERE {_REALM} AND template_id > {{after:String}} AND {_FILTERS}
        ORDER BY template_id
        LIMIT {{limit:UInt32}}
    ) AS funnel
    LEFT JOIN
    (
        SELECT
            template_id, sum(claimed) AS claimed, sum(locked) AS locked, sum(redeemed) AS redeemed,
            sum(released) AS released, sum(returned) AS returned, sum(expired) AS expired, sum(revoked) AS revoked,
            sum(redeemed_minor) AS redeemed_minor, sum(returned_minor) AS returned_minor
        FROM coupon_daily
        WHERE {_REALM} AND day >= {{from:Date}} AND day < {{until:Date}}
        GROUP BY template_id
    ) AS days ON days.template_id = funnel.template_id
    LEFT JOIN
    (
        SELECT
            template_id, sum(of_code) AS refused,
            CAST(sumMap(map(toString(code), of_code)), 'Map(String, Int64)') AS refused_by_code
        FROM
        (
            SELECT template_id, code, sum(refused) AS of_code FROM refusal_facts FINAL
            WHERE {_REALM} AND command = 'claim_coupon'
            AND toDate(occurred_at, 'UTC') >= {{from:Date}} AND toDate(occurred_at, 'UTC') < {{until:Date}}
            GROUP BY template_id, code
        )
        GROUP BY template_id
    ) AS refusals ON refusals.template_id = funnel.template_id
    ORDER BY template_id
"""

SPEND: Final = f"""
    SELECT
        campaign_id, template_id, currency, sum(redeemed_minor) AS redeemed_minor,
        sum(reversed_minor) AS reversed_minor, sum(net_minor) AS net_minor, sum(external_minor) AS external_minor
    FROM spend
    WHERE {_REALM} AND day >= {{from:Date}} AND day < {{until:Date}} AND {_FILTERS}
    AND (campaign_id, template_id, currency) > ({{after_1:String}}, {{after_2:String}}, {{after_3:String}})
    GROUP BY campaign_id, template_id, currency
    ORDER BY campaign_id, template_id, currency
    LIMIT {{limit:UInt32}}
"""

BREAKS: Final = f"""
    SELECT
        break_id, status, kind, severity, subject, currency, amount_minor, detail, event_ids, since, opened_at,
        closed_at, reason, toUnixTimestamp64Micro(opened_at) AS order_at
    FROM breaks
    WHERE {_REALM}
    AND ({{kind:String}} = '' OR kind = {{kind:String}})
    AND ({{status:String}} = '' OR status = {{status:String}})
    AND ({{break_id:String}} = '' OR break_id = {{break_id:String}})
    AND (order_at, break_id) > ({{after_at:Int64}}, {{after_id:String}})
    ORDER BY order_at, break_id
    LIMIT {{limit:UInt32}}
"""
