"""`python -m clavitor_license_minter`."""

from clavitor_license_minter.cli import run

run()
