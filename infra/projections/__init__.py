"""Followers that keep read models and facts up with the log, and rebuild them beside the old ones."""
