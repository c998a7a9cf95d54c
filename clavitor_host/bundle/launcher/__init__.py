"""What starts an artifact. Each module here is also a member of it, at its root:

    __main__.py            stage1: the interpreter is the right one, and isolated; the launcher is what was built
    clavitor_launcher.py   stage2: every byte of the file is what was frozen; runs the program
    clavitor_importer.py   importer: modules from the frozen bytes, hashed again at every load
    clavitor_resources.py  resources: `importlib.resources` and `importlib.metadata` from them; loaded on demand

They use the standard library alone, and nothing of each other but what they are handed.
"""

from __future__ import annotations


def render_main(stage1: bytes, launcher: str, python: str, platform: str) -> bytes:
    """Return `__main__.py`: `stage1` for a launcher's sha256 in hex, a Python as 3.11, a platform as linux_x86_64."""
    for mark, value in (("@launcher@", launcher), ("@python@", python), ("@platform@", platform)):
        stage1 = stage1.replace(mark.encode("ascii"), value.encode("ascii"), 1)
    return stage1
