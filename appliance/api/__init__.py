"""Owns the HTTP surface: push, account, oauth, pages, and the identity behind them; one mapping of errors.

Guarantees that every refusal is a documented reply that names the fault and the next step, without a secret in it.
Never imports `wizard`, `relay`, `ops`, `asgi` or `cli`.
"""
