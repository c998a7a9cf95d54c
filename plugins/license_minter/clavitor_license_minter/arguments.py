"""The arguments of the command. Unknown flags, abbreviations and flags given twice are errors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from clavitor_licensing.domain.limits import DEFAULT_TIER_LIMITS, MAX_LIMIT
from clavitor_licensing.domain.schema import MAX_GRACE_DAYS, MAX_LABEL, is_label, is_license_id, is_tenant_id

from clavitor_license_minter.times import parse_expires

PROGRAM = "clavitor-license-mint"

_NUMBER = re.compile(r"\d{1,10}", re.ASCII)


def mint_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return what to mint. Exits with 2 and a message when it is not clear."""
    parser = _Parser(
        PROGRAM,
        usage=f"{PROGRAM} --private-key=FILE --tenant=ID --expires=DATE [options]\n"
        f"       {PROGRAM} --private-key=FILE --from=OLD_TOKEN --expires=DATE [options]\n"
        f"       {PROGRAM} inspect TOKEN [--public-key=KEY]",
        description="Sign a license.",
    )
    parser.value("--private-key", metavar="FILE", help="PEM of an Ed25519 private key; - is standard input")
    parser.value("--passphrase-file", metavar="FILE", help="its first line opens an encrypted private key")
    parser.value("--public-key", metavar="KEY", help="for --verify and --from: as CLAVITOR_LICENSE_PUBLIC_KEY takes it")
    parser.value("--tenant", metavar="ID", type=_tenant, help="the tenant id of the server")
    parser.value("--label", metavar="TEXT", type=_label, help="what people call the license")
    parser.value(
        "--expires",
        metavar="DATE",
        type=_expires,
        help="its last day, to its very end (UTC), or an exact time with its zone",
    )
    parser.value("--grace-days", metavar="N", type=_grace, help="days after that for which the limits still apply (0)")
    for limit, default in DEFAULT_TIER_LIMITS.items():
        flag = "--" + limit.replace("_", "-")
        parser.value(flag, metavar="N", type=_limit, help=f"not given: as in the default tier, {default}")
    parser.value("--license-id", metavar="UUID", type=_license_id, help="not given: a random one")
    parser.value("--from", metavar="OLD_TOKEN", dest="renew", help="renew a license: a token, a file with one, or -")
    parser.value("--output", metavar="FILE", help="a new file for the token; not given, or -: standard output")
    parser.add_argument("--verify", action="store_true", help="check the result against --public-key")
    given = parser.read(argv)
    required = ["private_key", "expires"] + (["tenant"] if given.renew is None else [])
    missing = [f"--{name.replace('_', '-')}" for name in required if getattr(given, name) is None]
    if missing:
        parser.error(f"missing: {', '.join(missing)}")
    if given.verify and given.public_key is None:
        parser.error("--verify needs --public-key")
    if [given.private_key, given.passphrase_file, given.renew].count("-") > 1:
        parser.error("standard input can be read once: give - once")
    if given.output == "":
        parser.error("--output names no file")
    given.limits = {key: value for key in DEFAULT_TIER_LIMITS if (value := getattr(given, key)) is not None}
    return given


def inspect_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return what to inspect. Exits with 2 and a message when it is not clear."""
    parser = _Parser(f"{PROGRAM} inspect", description="Show what a license says, and what it is worth now.")
    parser.add_argument("token", metavar="TOKEN", help="a token, a file with one, or - for standard input")
    parser.value("--public-key", metavar="KEY", help="check the signature: as CLAVITOR_LICENSE_PUBLIC_KEY takes it")
    return parser.read(argv)


class _Parser(argparse.ArgumentParser):
    def __init__(self, prog: str, *, description: str, usage: str | None = None) -> None:
        super().__init__(prog, usage=usage, description=description, allow_abbrev=False)

    def value(self, flag: str, **settings: Any) -> None:
        self.add_argument(flag, action=_Once, **settings)

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        given, unknown = self.parse_known_args(argv)
        if unknown:  # its value is not repeated: it may be a secret
            name = unknown[0].split("=", 1)[0]
            near = get_close_matches(name, self._option_string_actions, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            self.error(f"unknown flag: {name}{hint}" if name.startswith("-") else "an argument too many")
        return given

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n{self.prog} --help lists the flags\n")


class _Once(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option} is given twice")
        setattr(namespace, self.dest, values)


def _wrong(expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(expected)


def _whole(text: str, highest: int) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > highest:
        raise _wrong(f"expected a whole number from 0 to {highest}")
    return int(text)


def _limit(text: str) -> int:
    return _whole(text, MAX_LIMIT)


def _grace(text: str) -> int:
    return _whole(text, MAX_GRACE_DAYS)


def _tenant(text: str) -> str:
    if not is_tenant_id(text):
        raise _wrong("expected 1 to 128 of A-Z a-z 0-9 . _ - that begin with a letter or digit")
    return text


def _label(text: str) -> str:
    if not is_label(text):
        raise _wrong(f"expected at most {MAX_LABEL} printable characters")
    return text


def _license_id(text: str) -> str:
    if not is_license_id(text):
        raise _wrong("expected a UUID such as 550e8400-e29b-41d4-a716-446655440000")
    return text.lower()


def _expires(text: str) -> int:
    try:
        return parse_expires(text)
    except ValueError as error:
        raise _wrong(str(error)) from None
