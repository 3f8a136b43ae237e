-- The relay's memory beside its row in `follower_positions`: the last offset of the log that it published to each lane,
-- a lane being one partition of one topic (by its name without an installation's prefix). The next record of the lane
-- points back to it. Written in the transaction that moves the relay's position.
CREATE TABLE relay_lanes (
    topic text NOT NULL,
    partition integer NOT NULL CHECK (partition >= 0),
    log_offset bigint NOT NULL CHECK (log_offset > 0),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
