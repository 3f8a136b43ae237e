-- Where each table set stands in each lane (a partition of a topic), for followers over Kafka. Written after the rows.
CREATE TABLE IF NOT EXISTS projection_lanes (
    name LowCardinality(String),
    version UInt32,
    epoch String,
    lane String,
    `offset` UInt64,
    written_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
-- The highest offset wins, whoever comes late with an older one: what it says is true, and less.
ENGINE = ReplacingMergeTree(`offset`)
-- One row per lane is alive. Asked for by name, version and epoch, all lanes at once.
ORDER BY (name, version, epoch, lane);
