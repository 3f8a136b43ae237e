"""Distributions: lists of users become coupons, a chunk at a time, by whoever runs them."""
