"""Configuration: `clavitor.toml`, then `CLAVITOR_*` variables, then flags."""
