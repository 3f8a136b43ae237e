"""Kafka as this system uses it: how it is reached, which topics there are, and what a message looks like."""
