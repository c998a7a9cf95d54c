"""Telemetry: what agents report, kept and found again."""
