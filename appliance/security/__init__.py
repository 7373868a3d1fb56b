"""Owns secrets at rest, passwords, tokens, throttles, redaction and the guarded way out of the house.

Guarantees that no secret is shown, no refusal tells more than it must, and no address inside is reached unasked.
Never imports anything here but `domain` and `settings`; callers hand in rows and keys, and persist what comes back.
"""
