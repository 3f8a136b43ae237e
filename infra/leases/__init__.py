"""Keeps budget leases: brings what a budget's home and its holders have on record together, safe against dying."""
