"""A token that is given on the command line: itself, or the file it is in, or standard input."""

from __future__ import annotations

from clavitor_licensing.domain.canonical import split_token
from clavitor_licensing.domain.info import LicenseRejected

from clavitor_license_minter.errors import MinterError
from clavitor_license_minter.files import read_input


def given_token(text: str) -> str:
    """Return the token. `-` is standard input; what is not a token by its form is a file. Raises `MinterError`.

    A token among the arguments is in the shell's history and visible to every user of the machine (`ps`).
    """
    try:
        split_token(text)
    except LicenseRejected as rejection:
        if len(text) > 255 or not text.isprintable():  # no file's name, and a token is not for showing
            raise MinterError(rejection.message) from None
        found = read_input(text, "the license").decode("utf-8", "replace")
        if "-----BEGIN " in found:
            raise MinterError("that is a key (PEM), not a license") from None
        return found
    return text
