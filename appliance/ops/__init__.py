"""Owns what operators look at: health, metrics, logging set-up.

Guarantees that none of it shows content or secrets and that a probe answers within its deadline.
Never imports `api` or `relay`; it reads the layers below.
"""
