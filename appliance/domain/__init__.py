"""Owns the words and rules of delivery: notification, device, ladder, outcome, retry, quota, errors.

Guarantees that every rule is pure: no I/O, no clock, no randomness, no async; callers pass `now` and a random source.
Never imports anything outside the standard library and `msgspec`.
"""
