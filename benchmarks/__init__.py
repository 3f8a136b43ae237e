"""Ratios measured side by side on one machine: what we do beside what others, or the engines alone, do."""
