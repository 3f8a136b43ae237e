"""Several event stores side by side: commands find their shard, reads and checks see all of them."""
