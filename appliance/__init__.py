"""Carillon, a self-hosted push-notification appliance.

Owns everything that runs: HTTP surface, hub, delivery, storage, command line.
Guarantees that what was answered with 202 is kept and told about. Imports `wizard` only in `asgi` and `cli`.
"""

__version__ = "0.1.0"
