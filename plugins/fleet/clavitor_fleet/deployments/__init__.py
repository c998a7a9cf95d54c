"""Deployments: how big an app runs."""
