"""What one page hands to the next: unreadable on the way, and of use in its own session alone."""

from __future__ import annotations

import base64

import pytest

from clavitor_host.errors import Problem
from clavitor_host.web.pages.sealing import seal, unseal

TEXT = "bm90IGEgbGljZW5zZQ==.c2lnbmF0dXJl é"


def test_what_was_sealed_comes_back_in_the_same_session() -> None:
    sealed = seal(TEXT, "cookie")
    assert unseal(sealed, "cookie") == TEXT
    assert seal(TEXT, "cookie") != sealed
    assert TEXT.encode() not in base64.urlsafe_b64decode(sealed)
    assert unseal(seal("", "cookie"), "cookie") == ""


def test_nothing_else_is_accepted() -> None:
    sealed = seal(TEXT, "cookie")
    flipped = bytearray(base64.urlsafe_b64decode(sealed))
    flipped[-1] ^= 1
    for text in ("", "x", "é", "AAAA", sealed[:-8], sealed[:20], base64.urlsafe_b64encode(flipped).decode()):
        with pytest.raises(Problem) as refused:
            unseal(text, "cookie")
        assert (refused.value.status, refused.value.code) == (400, "stale_form")
    for cookie in ("", "another"):
        with pytest.raises(Problem):
            unseal(sealed, cookie)
