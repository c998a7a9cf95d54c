"""The table `[plugins.licensing]`, and the variables `CLAVITOR_LICENSE_*`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from clavitor_host.api import ResolvedBy


def _located(text: str, folder: Path) -> str:
    """Count relative paths among the keys from the folder of the configuration file, as every other path."""
    from clavitor_licensing.domain.keys import relative_to

    return relative_to(text, folder)


class LicensingConfig(BaseModel):
    """The license of this server, and the keys that may have signed it."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    token: SecretStr | None = Field(
        default=None,
        json_schema_extra={"env": "CLAVITOR_LICENSE_TOKEN"},
        description="The license. At every start it replaces the one that is installed.",
    )
    token_file: Path | None = Field(
        default=None,
        json_schema_extra={"env": ["CLAVITOR_LICENSE_FILE", "CLAVITOR_LICENSE_TOKEN_FILE"]},
        description="File with the license, when `token` is not set. At every start it replaces the one that is "
        "installed.",
    )
    public_key: Annotated[str | None, ResolvedBy(_located)] = Field(
        default=None,
        json_schema_extra={"env": "CLAVITOR_LICENSE_PUBLIC_KEY"},
        description="Ed25519 public keys that may have signed a license, with commas between them: PEM, base64 of DER, "
        "or the path of a file with either. Not set: every license is rejected.",
    )

    @field_validator("public_key")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        """Refuse a key that cannot be used before anything starts; the files are read again later."""
        if not value:
            return None
        from clavitor_licensing.domain.keys import load_public_keys

        load_public_keys(value)  # its error is a ValueError that says which key and why, and repeats none
        return value

    @field_validator("token", mode="after")
    @classmethod
    def _given(cls, value: SecretStr | None) -> SecretStr | None:
        """An empty token counts as not given, as an empty variable does."""
        return value if value is not None and value.get_secret_value() else None
