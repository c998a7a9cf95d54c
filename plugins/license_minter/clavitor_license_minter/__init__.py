"""Makes licenses: `mint` signs one, `clavitor-license-mint` is the command. Only the vendor has it."""

from clavitor_license_minter.mint import mint

__all__ = ["mint"]
