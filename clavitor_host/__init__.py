"""Clavitor Host: a self-hosted vault server. Clients encrypt, it keeps."""

__version__ = "1.0.0"

API_VERSION = "1.0"
"""Version of the plugin contract (`hookspecs.py`, `api.py`): major.minor."""
