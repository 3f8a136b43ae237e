"""What every way in shares: commands read from JSON, sent to an engine, and their answers told as JSON."""
