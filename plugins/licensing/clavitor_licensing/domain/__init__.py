"""Licenses as values and rules: no web, no database, no clock and no host. `cryptography` is all it needs."""
