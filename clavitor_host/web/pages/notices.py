"""What a page says after something was done: the redirect carries a word, the page shows its sentence."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NOTICES: Mapping[str, str] = MappingProxyType(
    {
        "welcome": "This vault is yours. Next, create a token to store and read entries with.",
        "logged-out": "You are logged out.",
        "user-created": "The user was created.",
        "user-changed": "The user was changed.",
        "user-disabled": "The user was disabled: their sessions have ended and their tokens have stopped working.",
        "user-enabled": "The user was enabled.",
        "user-deleted": "The user was deleted, with their tokens and sessions.",
        "password-set": "The password was set, and the user's sessions have ended.",
        "password-changed": "Your password was changed. All your other sessions have ended.",
        "token-made": "The token was made and shown already. If you no longer have it, revoke it and make another.",
        "token-revoked": "The token was revoked. It stopped working at once.",
        "session-ended": "The session was ended.",
        "sessions-ended": "All your other sessions were ended.",
    }
)
