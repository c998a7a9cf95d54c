"""The audit log: append-only rows in a SHA-256 chain (vault.md section 3)."""
