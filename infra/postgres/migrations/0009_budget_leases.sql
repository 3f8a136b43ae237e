-- Which budgets are shared with other shards: the keeper of leases begins with these few. An event of any other type
-- costs this index one comparison.
CREATE INDEX stored_events_shared_budgets_idx ON stored_events (originator_id) WHERE topic = 'budget.shared.v1';
