"""Owns the way of a notification: accept, engine, acknowledgements, timeline.

Guarantees that nothing is delivered before it is committed, that every step is recorded, that nobody waits for others.
Never imports `api`, `relay`, `ops` or `wizard`; it is where storage, hub and channels meet.
"""
