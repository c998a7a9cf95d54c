"""Clavitor Host: a self-hosted vault server. Clients encrypt, it keeps."""

import os

__version__ = "1.0.0"

API_VERSION = "1.0"
"""Version of the plugin contract (`hookspecs.py`, `api.py`): major.minor."""

# Else pydantic imports whatever any installed distribution offers it: nothing here is loaded for being installed.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
