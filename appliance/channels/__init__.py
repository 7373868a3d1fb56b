"""Owns the ways out: one file a channel, under one contract (`contract`) and one list (`registry`).

Guarantees that a channel answers every push with one outcome, within its deadline, without retrying or logging content.
Never imports `storage`, `delivery`, `hub` or anything above.
"""
