"""Logs, metrics and traces: they watch from outside and decide nothing."""
