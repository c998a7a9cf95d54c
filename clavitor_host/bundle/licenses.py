"""Licences of distributions, as far as their metadata names one that SPDX knows."""

from __future__ import annotations

from email.message import Message

_CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "License :: OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
}
"""Those that name one licence; "BSD License" is several."""


def spdx(metadata: Message) -> str:
    """Return the SPDX expression of a distribution, "" when its metadata names none."""
    for text in (metadata["License-Expression"], metadata["License"]):
        expression = canonical(str(text)) if text else ""
        if expression:
            return expression
    found = {_CLASSIFIERS[text] for text in metadata.get_all("Classifier", ()) if text in _CLASSIFIERS}
    return found.pop() if len(found) == 1 else ""


def canonical(text: str) -> str:
    """Return an SPDX expression in its canonical form, "" for what is none."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text.strip()))
    except InvalidLicenseExpression:
        return ""
