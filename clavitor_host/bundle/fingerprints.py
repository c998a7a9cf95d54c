"""What gives away that content of a forbidden distribution is inside, under whatever name.

Fingerprints are made from the distributions' source folders in this checkout: the sha256 of every file, every
distinctive line, and, of every module as Python compiles it, the distinctive string constants, the names it defines
and the bytecode of every function of some length. What the allowed sources also say is not distinctive. An allowed
file that is mostly a copy of a forbidden one allows nothing: that is the very mistake this looks for.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import NamedTuple

from clavitor_host.bundle.names import normalized

LINE = 25
"""Shortest line, in bytes without the white space around it, that tells something."""
CERTAIN = 40
"""From this length one line or constant is proof; of shorter ones it takes two different ones in a member."""
PHRASE = 12
"""Shortest string constant, in characters, that tells something when it has a space in it; without one: LINE."""
NAME = 10
"""Shortest name, in characters, that tells something; it takes three different ones in a member."""
BYTECODE = 80
"""Shortest function, in bytes of bytecode, that tells something."""

_COMMONPLACE = re.compile(rb"(from\s+\S+\s+)?import\s|@|#!|# coding|__all__|if TYPE_CHECKING|def __")
_WORD = re.compile(rb"[A-Za-z_]\w+")
_LITERAL = re.compile(rb"\"([^\"\n]{12,})\"|'([^'\n]{12,})'")
_FIELD = re.compile(rb"\{[^}]*\}")
_LETTERS = re.compile(r"[A-Za-z]{3}")
_SKIPPED = frozenset({"__pycache__", ".git", "dist", "build", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"})

Constant = str | bytes
Bytecode = tuple[bytes, tuple[str, ...]]


class Fingerprints(NamedTuple):
    """What gives forbidden content away, each with the source file it is from."""

    files: Mapping[str, str]
    lines: Mapping[bytes, str]
    constants: Mapping[Constant, str]
    names: Mapping[str, str]
    bytecode: Mapping[Bytecode, str]
    allowed: Mapping[str, Path]
    """Sources that may say the same, by the member's name."""

    def describe(self) -> str:
        """Return what there is to look for, in words."""
        return (
            f"{len(self.files)} files, {len(self.lines)} lines, {len(self.constants)} constants, "
            f"{len(self.names)} names, {len(self.bytecode)} functions"
        )


class _Known(NamedTuple):
    """What the allowed sources say."""

    digests: set[str]
    lines: set[bytes]
    words: set[bytes]
    literals: set[bytes]
    files: dict[str, Path]


def forbidden_folders(root: Path, globs: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Return the source folder of each forbidden distribution below `root`, and the globs that have none there."""
    from fnmatch import fnmatchcase

    found: dict[str, Path] = {}
    matched: set[str] = set()
    for file in sorted(root.glob("plugins/*/pyproject.toml")):
        name = _distribution(file)
        fitting = [glob for glob in globs if fnmatchcase(name, glob)]
        if fitting:
            found[name] = file.parent
            matched.update(fitting)
    return found, [glob for glob in globs if glob not in matched]


def fingerprints(forbidden: Iterable[Path], allowed: Iterable[Path]) -> Fingerprints:
    """Make the fingerprints of the folders `forbidden`, without what the folders `allowed` also say."""
    sources = {file: (folder, data) for folder in forbidden for file, data in _files(folder)}
    code = [set(distinctive_lines(data)) for file, (_, data) in sources.items() if file.suffix == ".py"]
    known = _known(allowed, [lines for lines in code if lines])
    files: dict[str, str] = {}
    lines: dict[bytes, str] = {}
    constants: dict[Constant, str] = {}
    names: dict[str, str] = {}
    bytecode: dict[Bytecode, str] = {}
    for file, (folder, data) in sources.items():
        label = f"{folder.parent.name}/{folder.name}/{file.relative_to(folder)}"
        digest = hashlib.sha256(data).hexdigest()
        if len(data.strip()) >= LINE and digest not in known.digests:
            files.setdefault(digest, label)
        if b"\0" in data:
            continue
        lines.update((line, label) for line in distinctive_lines(data) if line not in known.lines)
        if file.suffix == ".py" and (compiled := _compiled(data)) is not None:
            nodes, module = compiled
            constants.update((each, label) for each in _constants(nodes) if not _says(known, each))
            names.update((each, label) for each in _defined(nodes) if each.encode() not in known.words)
            bytecode.update((each, label) for each in _functions(module, data, known.lines))
    return Fingerprints(files, lines, constants, names, bytecode, known.files)


def distinctive_lines(data: bytes) -> Iterator[bytes]:
    """Yield the lines of a text, without white space around them, that few other files have."""
    for line in map(bytes.strip, data.split(b"\n")):
        if len(line) >= LINE and not _COMMONPLACE.match(line) and _LETTERS.search(line.decode("latin-1")):
            yield line


def functions_of(source: bytes) -> set[Bytecode]:
    """Return the bytecode of every function of a source."""
    compiled = _compiled(source)
    return {(code.co_code, code.co_names) for code in walk(compiled[1])} if compiled else set()


def walk(module: CodeType) -> Iterator[CodeType]:
    """Yield a code object and every one inside it, once."""
    todo = {id(module): module}
    seen: set[int] = set()
    while todo:
        key, code = todo.popitem()
        seen.add(key)
        yield code
        inner = {id(each): each for each in code.co_consts if type(each) is CodeType}
        todo |= {key: each for key, each in inner.items() if key not in seen}  # bytes made to harm go in circles


def texts(code: CodeType) -> Iterator[Constant]:
    """Yield the string and bytes constants of one code object, also those inside tuples."""
    todo = list(code.co_consts)
    seen: set[int] = set()
    while todo:
        value = todo.pop()
        kind = type(value)
        if kind is str or kind is bytes:
            yield value
        elif (kind is tuple or kind is frozenset) and id(value) not in seen:
            seen.add(id(value))
            todo.extend(value)


def _constants(nodes: Sequence[ast.AST]) -> Iterator[Constant]:
    """Yield what the source itself says as text: not its annotations, which bytecode holds as texts too."""
    for node in nodes:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str | bytes):
            continue
        text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        if len(text) >= (PHRASE if " " in text.strip() else LINE) and _LETTERS.search(text):
            yield node.value


def _functions(module: CodeType, data: bytes, known: Collection[bytes]) -> Iterator[Bytecode]:
    lines = [line.strip() for line in data.split(b"\n")]
    for code in walk(module):
        if len(code.co_code) < BYTECODE or code.co_name in ("<module>", "__annotations__"):
            continue
        last = max((line for *_, line in code.co_lines() if line), default=code.co_firstlineno)
        if not known.issuperset(lines[code.co_firstlineno - 1 : last]):  # type: ignore[attr-defined]
            yield code.co_code, code.co_names


def _defined(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            continue
        yield from (name for name in names if len(name.strip("_")) >= NAME)


def _compiled(data: bytes) -> tuple[list[ast.AST], CodeType] | None:
    try:
        tree = ast.parse(data)
        return list(ast.walk(tree)), compile(tree, "source", "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None


def _says(known: _Known, constant: Constant) -> bool:
    """Tell whether the allowed sources have a constant, as it is or with its escapes."""
    raw = constant if isinstance(constant, bytes) else constant.encode("utf-8", "surrogatepass")
    if b"\n" in raw:
        return known.lines.issuperset(map(bytes.strip, raw.split(b"\n")[1:-1]))
    return raw in known.literals or ascii(constant).lstrip("b")[1:-1].encode() in known.literals


def _known(folders: Iterable[Path], forbidden: Sequence[set[bytes]]) -> _Known:
    known = _Known(set(), set(), set(), set(), {})
    for folder in folders:
        for file, data in _files(folder):
            if b"\0" in data:
                known.digests.add(hashlib.sha256(data).hexdigest())
                continue
            own = set(map(bytes.strip, data.split(b"\n")))
            if file.suffix == ".py" and any(_is_copy(own, lines) for lines in forbidden):
                continue
            known.digests.add(hashlib.sha256(data).hexdigest())
            known.files[str(file.relative_to(folder))] = known.files[str(file.relative_to(folder.parent))] = file
            known.lines.update(own)
            known.words.update(_WORD.findall(data))
            for literal in _LITERAL.findall(data):
                known.literals.update(_FIELD.split(literal[0] or literal[1]))
    return known


def _is_copy(own: set[bytes], lines: set[bytes]) -> bool:
    return len(own & lines) >= max(4, len(lines) // 2)


def _files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in _SKIPPED or path.name.endswith((".pyc", ".egg-info")):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path, path.read_bytes()


def _distribution(pyproject: Path) -> str:
    import tomllib

    try:
        name = tomllib.loads(pyproject.read_text("utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return pyproject.parent.name
    return normalized(str(name))
