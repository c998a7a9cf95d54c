"""Outbound connections: where news is sent, signed, until it is taken."""
