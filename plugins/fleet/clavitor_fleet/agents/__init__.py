"""Agents: running replicas of apps, what they are told and what they answer."""
