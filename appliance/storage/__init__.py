"""Owns what is kept: Piccolo tables and migrations, the engine, the group-commit writer, queries by noun.

Guarantees that a completed write is committed and fsynced, and that one failing write harms no other in its batch.
Never imports `channels`, `hub` or anything above; `delivery` is where storage and channels meet.
"""
