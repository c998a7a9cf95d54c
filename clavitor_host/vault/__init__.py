"""The vault: entries that clients encrypted (vault.md section 1)."""
