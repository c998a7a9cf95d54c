"""Apps: what runs in an environment."""
