"""What every side shares: events, commands, envelopes, refusals and the names they are stored under."""
