"""Whether 32 bytes are an Ed25519 public key that means something (RFC 8032, section 5.1.3).

OpenSSL loads points of low order, under which anybody can sign, and points that are written in more than one way.
"""

from __future__ import annotations

from typing import Final

_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT: Final = pow(2, (_P - 1) // 4, _P)
"""A square root of -1."""


def point_problem(encoded: bytes) -> str | None:
    """Return what is wrong with a public key of 32 bytes, or None."""
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return "its point is not written canonically"
    x = _x_of(y)
    if x is None:
        return "its point is not on the curve"
    if x == 0 and sign:
        return "its point is not written canonically"
    for _ in range(3):  # eight times a point of low order is the identity
        x, y = _double(x, y)
    return "its point is of low order: anybody could sign" if (x, y) == (0, 1) else None


def _x_of(y: int) -> int | None:
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P == u:
        return x
    return x * _ROOT % _P if v * x * x % _P == _P - u else None


def _double(x: int, y: int) -> tuple[int, int]:
    xx, yy = x * x % _P, y * y % _P
    return 2 * x * y * pow(yy - xx, -1, _P) % _P, (yy + xx) * pow(2 - yy + xx, -1, _P) % _P
