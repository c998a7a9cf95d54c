"""Artifacts: the versions of an app, as bytes."""
