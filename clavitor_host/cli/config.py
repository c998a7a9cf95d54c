"""`clavitor config`: check, show and document the configuration."""

from __future__ import annotations

import typer

from clavitor_host.cli.invocation import Invocation
from clavitor_host.terminal import write_json

app = typer.Typer(help="Check, show and document the configuration.", no_args_is_help=True)


@app.command()
def check(call: Invocation) -> None:
    """Check the configuration: every key, every variable, the plugins' tables, the files it names."""
    from clavitor_host.config.show import show as shown_values

    config = call.config
    shown_values(config, call.plugin_models)
    _check_files(call)
    if call.json:
        write_json({"ok": True, "file": None if config.file is None else str(config.file)})
    else:
        print(f"The configuration is right ({config.file or 'no file; defaults, variables and flags'}).")


@app.command()
def show(call: Invocation) -> None:
    """Show what is in force and where it was set. Secrets are masked."""
    from clavitor_host.config.show import as_toml
    from clavitor_host.config.show import show as shown_values

    shown = shown_values(call.config, call.plugin_models)
    if call.json:
        write_json({"values": shown, "origins": call.config.origins})
    else:
        print(as_toml(call.config, shown), end="")


@app.command()
def reference(call: Invocation) -> None:
    """Print the reference page of every key, with those of this build's plugins."""
    from clavitor_host.config.reference import render

    page = render(call.plugin_models)
    if call.json:
        write_json({"markdown": page})
    else:
        print(page, end="")


def _check_files(call: Invocation) -> None:
    from clavitor_host.errors import ConfigError

    tls = call.config.host.tls
    for key, file in (("cert", tls.cert), ("key", tls.key), ("client_ca", tls.client_ca)):
        if file is None:
            continue
        try:
            with file.open("rb"):
                pass
        except OSError as error:
            origin = call.config.origins.get(f"tls.{key}", "default")
            raise ConfigError(f"tls.{key}: {file} cannot be read: {error.strerror} ({origin})") from None
    for name, model in call.plugin_models.items():
        check_files = getattr(model.model_validate(call.config.plugin_tables.get(name, {})), "check_files", None)
        if check_files is not None:
            check_files()
