"""The generated reference pages say what the code says, and no hook goes undocumented or untested."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from clavitor_host import hookspecs

ROOT = Path(__file__).resolve().parent.parent
HOOKS = [name for name, spec in vars(hookspecs).items() if "clavitor_contract" in getattr(spec, "__dict__", {})]


def generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("references", ROOT / "tools" / "references.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_the_reference_pages_are_what_the_code_says() -> None:
    for name, text in generated().items():
        assert (ROOT / "docs" / "reference" / name).read_text() == text, f"{name} is stale; run: make references"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_and_tested(hook: str) -> None:
    assert len((getattr(hookspecs, hook).__doc__ or "").split()) > 8
    tests = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "plugins").glob("*/tests/*.py")]
    assert any(hook in file.read_text() for file in tests if file != Path(__file__)), f"no test mentions {hook}"


def test_the_links_of_the_readme_and_docs_lead_somewhere() -> None:
    import re

    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
