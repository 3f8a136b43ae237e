-- Which event stands at a position: a log that was restored to an earlier state gives the offset to another one.
ALTER TABLE projection_positions ADD COLUMN IF NOT EXISTS mark String DEFAULT '';
