"""Owns the push API in Keymaster's shape: configuration, devices, sends, and the story of each notification.

Guarantees that a 202 is only said for what is committed, and that every refusal names the field and the fix.
Never imports other faces; what decides is in `delivery`, `storage` and `domain`.
"""
