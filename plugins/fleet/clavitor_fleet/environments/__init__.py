"""Environments: where apps run, and for how long what they report is kept."""
