"""What can be wrong with a PostgreSQL server at start, each told in one line that never shows a password."""

from __future__ import annotations

from urllib.parse import urlsplit

from clavitor_host.errors import StartError


def explain(url: str, error: Exception) -> StartError:
    """Return the one line for an error met while connecting to `url`."""
    parts = _split(url)
    place, database, user = parts
    state = getattr(error, "sqlstate", None) or ""
    if state in ("28P01", "28000"):
        return StartError(f"PostgreSQL at {place} refused the login of user {user!r}. Check name and password.")
    if state == "3D000":
        return StartError(f"PostgreSQL at {place} has no database {database!r}. Create it, then start again.")
    if state == "53300":
        return StartError(f"PostgreSQL at {place} has no free connection. Raise max_connections, or stop clients.")
    if state.startswith("57P0"):
        return StartError(f"PostgreSQL at {place} is starting up or shutting down. Try again in a moment.")
    if isinstance(error, TimeoutError):
        return StartError(f"PostgreSQL at {place} did not answer in time. Check the address and the firewall.")
    if isinstance(error, OSError):
        return StartError(f"PostgreSQL at {place} cannot be reached ({_reason(error)}). Is it running?")
    if type(error).__name__ == "ClientConfigurationError" or isinstance(error, ValueError):
        return StartError("The database URL is not usable: write postgresql://user:password@host:5432/name.")
    if state:
        return StartError(f"PostgreSQL at {place} refused the connection (SQLSTATE {state}).")
    return StartError(f"PostgreSQL at {place} cannot be used ({type(error).__name__}).")


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or type(error).__name__).lower()


def _split(url: str) -> tuple[str, str, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "the local socket", parts.port
    except ValueError:
        return "the given address", "", ""
    place = f"{host}:{port}" if port else host
    return place, parts.path.lstrip("/"), parts.username or ""
