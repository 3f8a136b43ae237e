"""Stands in for an order system: scenarios as plain data, and a client that plays them over HTTP."""
