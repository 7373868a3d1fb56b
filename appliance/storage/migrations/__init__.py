"""Piccolo migrations, applied in order at start-up. Each runs on SQLite and on PostgreSQL."""
