"""Owns the `carillon` command: arguments, exit codes, what is printed, and the process that serves.

Guarantees one line and the next step for every failure, never a traceback, and a help that comes at once.
Imports whatever a command needs, but only when that command runs; nothing imports it.
"""
