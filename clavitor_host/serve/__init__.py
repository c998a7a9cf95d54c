"""Serving: sockets, TLS, connections, shutdown, several workers, systemd."""
