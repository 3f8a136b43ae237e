-- Two questions are asked of timers: "this one", by all of its primary key, and "what is due first in this realm". An
-- index that begins with the same two columns as the key looks as good as the key for the first question, as long as
-- nothing is known of how many timers a realm has, and then reads all of them for each one that is looked for. So the
-- index for the second question names the realm in a way that nothing else does.

DROP INDEX timers_due_idx;
CREATE INDEX timers_due_idx ON timers ((ARRAY[tenant_id, app_id]), due_at, kind, key);
