"""Owns the first minutes: the claim code that proves who owns this new appliance, and the page that takes it.

Guarantees that exactly one bearer of the code becomes the first admin, and that the way in is gone afterwards.
Never imports `appliance.asgi` or `appliance.cli`.
"""
