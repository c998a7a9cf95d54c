"""The plugin house: which plugins run, their states, how their hooks are called, and what they may contribute."""
