"""Users, tokens, sessions, and who may do what (vault.md section 2)."""
