"""Owns who people and apps are: accounts, secrets, sign-in, sessions, tokens, and what revokes them.

Guarantees that a revocation takes effect at once in this process and within two seconds in every other one.
Never imports `delivery`, `hub` or `ops`; who holds connections watches through `RevocationWatcher`.
"""
