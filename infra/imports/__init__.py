"""Anybody's CSV or Parquet files become commands and facts, by a mapping of a few SQL SELECTs."""
