"""Modules come from the artifact's members, each hashed again when it is loaded; its own names come from nowhere else.

Becomes `clavitor_importer.py`. Standard library alone; runs on the one Python the artifact was built for.
"""

from __future__ import annotations

import _imp
import marshal
import os
import sys
from bisect import bisect_left
from errno import EINVAL, ENOENT
from importlib import import_module
from importlib._bootstrap_external import (  # type: ignore[attr-defined]
    MAGIC_NUMBER,
    _LoaderBasics,
    decode_source,
)
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from importlib.metadata import Distribution
    from types import CodeType, ModuleType, TracebackType
    from typing import Any

    from clavitor_host.bundle.launcher.stage2 import Store

SUFFIXES = (*_imp.extension_suffixes(), ".py", ".pyc")
"""What a module's file may end with, in Python's own order."""

MFD_EXEC = 0x10
"""Linux 6.3: this memory will be executed; older kernels refuse the flag, and need none."""


def install(store: Store) -> None:
    """Make the artifact's members importable, and Python's own importer of it forgotten."""
    importer = Importer(store)
    sys.meta_path.insert(0, importer)
    sys.path_hooks.insert(0, importer.path_hook)
    sys.path[:] = [entry for entry in sys.path if entry != store.path]
    for entry in [entry for entry in sys.path_importer_cache if (entry + "/").startswith(importer.root)]:
        del sys.path_importer_cache[entry]
    for name in ("__main__", "clavitor_launcher", "clavitor_importer"):
        module, file = sys.modules[name], name + ".py"
        loader = Loader(importer, name, file, package=False)
        module.__spec__ = ModuleSpec(name, loader, origin=importer.root + file)
        module.__loader__, module.__file__ = loader, importer.root + file
    if "zipimport" in sys.modules:
        sys.modules["zipimport"].__dict__["_zip_directory_cache"].clear()
    sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Show an uncaught error with its source lines; Python itself would look for them in files.

    Nothing of an interrupt: Python ends by that signal when this has returned.
    """
    if not issubclass(kind, Exception):
        return
    from traceback import print_exception

    print_exception(kind, error, traceback)


class Importer:
    """Finds modules and distributions in the artifact, for `sys.meta_path`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.root = store.path + "/"
        self.names = list(store.table)
        """The members' names, sorted."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a top-level module by its name, any other in its package's folder, as `sys.meta_path` wants it."""
        if path is None:
            return None if fullname in sys.stdlib_module_names else self.spec_of(fullname, fullname)
        for entry in path:
            if entry.startswith(self.root):
                key = entry[len(self.root) :] + "/" + fullname.rpartition(".")[2]
                if (spec := self.spec_of(fullname, key)) is not None:
                    return spec
        return None

    def spec_of(self, fullname: str, key: str) -> ModuleSpec | None:
        """Return the spec of the module at `key`, a member's name without its ending."""
        table = self.store.table
        for stem, package in ((key + "/__init__", True), (key, False)):
            for suffix in SUFFIXES:
                if (member := stem + suffix) in table:
                    return self._spec(fullname, key, member, package)
        if not self.is_folder(key):
            return None
        spec = ModuleSpec(fullname, Loader(self, fullname, key + "/", package=True), is_package=True)
        spec.submodule_search_locations = [self.root + key]
        return spec

    def _spec(self, fullname: str, key: str, member: str, package: bool) -> ModuleSpec:
        kind = Loader if member.endswith((".py", ".pyc")) else ExtensionLoader
        spec = ModuleSpec(
            fullname, kind(self, fullname, member, package), origin=self.root + member, is_package=package
        )
        spec.has_location = True
        if kind is Loader:
            spec.cached = self.root + member.removesuffix("c") + "c"
        if package:
            spec.submodule_search_locations = [self.root + key]
        return spec

    def is_folder(self, key: str) -> bool:
        """Return whether a member is below this folder; "" is the artifact's root."""
        if not key:
            return True
        at = bisect_left(self.names, key + "/")
        return at < len(self.names) and self.names[at].startswith(key + "/")

    def children(self, key: str) -> Iterator[str]:
        """Yield the names in a folder, sorted."""
        start = key + "/" if key else ""
        last = None
        for name in self.names[bisect_left(self.names, start) :]:
            if not name.startswith(start):
                return
            child = name[len(start) :].partition("/")[0]
            if child != last:
                yield (last := child)

    def key_of(self, path: str) -> str:
        """Return the member's name of a path in the artifact. Raises FileNotFoundError for one that is elsewhere."""
        if not path.startswith(self.root) or "/." in path or "//" in path:
            path = "/" + os.path.abspath(path).lstrip("/")  # noqa: PTH100 - pathlib would be loaded at every start
        if path == self.store.path:
            return ""
        if not path.startswith(self.root):
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), path)
        return path[len(self.root) :]

    def path_hook(self, path: str) -> FolderFinder:
        """Return the finder for the artifact or anything below it, as `sys.path_hooks` wants it. Raises ImportError.

        Below it is also what it has not: by now other things may lie at its path, which Python must not look at.
        """
        try:
            return FolderFinder(self, self.key_of(path))
        except OSError:
            raise ImportError("not in this artifact", path=path) from None

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        """Return the distributions in the artifact, for `importlib.metadata`."""
        found: Iterable[Distribution] = import_module("clavitor_resources").distributions(self, context)
        return found

    def invalidate_caches(self) -> None:
        """Do nothing: an artifact does not change."""


class FolderFinder:
    """Finds modules in one folder of the artifact, for what searches a path: PathFinder, `pkgutil.iter_modules`."""

    def __init__(self, importer: Importer, key: str) -> None:
        self._importer = importer
        self._key = key

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module by the last part of its name."""
        tail = fullname.rpartition(".")[2]
        return self._importer.spec_of(fullname, f"{self._key}/{tail}" if self._key else tail)

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """Yield name and whether it is a package, for each module in this folder."""
        seen = {"__init__"}
        for child in self._importer.children(self._key):
            key = f"{self._key}/{child}" if self._key else child
            folder = self._importer.is_folder(key)
            suffix = next((suffix for suffix in SUFFIXES if child.endswith(suffix)), "")
            name = child.removesuffix(suffix)
            if not name.isidentifier() or name in seen or not (folder or suffix):
                continue
            if folder and "__init__" not in {inner.partition(".")[0] for inner in self._importer.children(key)}:
                continue
            seen.add(name)
            yield prefix + name, folder

    def invalidate_caches(self) -> None:
        """Do nothing: an artifact does not change."""


class Loader(_LoaderBasics):  # type: ignore[misc]
    """Loads one module from its compiled form when there is one, else from its source."""

    def __init__(self, importer: Importer, name: str, member: str, package: bool) -> None:
        self._importer = importer
        self._name = name
        self._member = member
        self._package = package

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the module's code; None for a namespace."""
        store, source = self._importer.store, self._member.removesuffix("c")
        if source.endswith("/"):
            return compile("__file__ = None", self._importer.root + source, "exec")
        path = self._importer.root + source
        if source + "c" in store.table:
            data = store.read(source + "c")
            if data[:4] == MAGIC_NUMBER:
                code: CodeType = marshal.loads(memoryview(data)[16:])  # noqa: S302 - hashed
                _imp._fix_co_filename(code, path)  # type: ignore[attr-defined]
                return code
        compiled: CodeType = compile(store.read(source), path, "exec", dont_inherit=True)
        return compiled

    def get_source(self, fullname: str) -> str | None:
        """Return the module's source; None when only the compiled form is there."""
        source = self._member.removesuffix("c")
        if source not in self._importer.store.table:
            return None
        text: str = decode_source(self._importer.store.read(source))
        return text

    def get_data(self, path: str) -> bytes:
        """Return the bytes of a file in the artifact. Raises FileNotFoundError."""
        try:
            return self._importer.store.read(self._importer.key_of(path))
        except KeyError:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), path) from None

    def get_filename(self, fullname: str) -> str:
        """Return what `__file__` is."""
        if self._member.endswith("/"):
            raise ImportError(f"{fullname} is a namespace", name=fullname)
        return self._importer.root + self._member

    def is_package(self, fullname: str) -> bool:
        """Return whether it has modules in it."""
        return self._package

    def bundle_digest(self) -> str:
        """Return the sha256 of the frozen manifest: equal for equal artifacts alone."""
        return self._importer.store.table["clavitor_frozen.json"][2]

    def get_resource_reader(self, fullname: str) -> Any:
        """Return what `importlib.resources` reads a package's files with."""
        if not self._package:
            return None
        return import_module("clavitor_resources").Reader(self._importer, self._member.rpartition("/")[0])


class ExtensionLoader(Loader):
    """Loads one extension module from memory that no other process can write to."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Give the system's loader the bytes as a file. It knows files by name: each stays open."""
        place = ModuleSpec(spec.name, self, origin=f"/proc/self/fd/{self._memory()}")
        module: ModuleType = _imp.create_dynamic(place)
        module.__file__ = self._importer.root + self._member
        return module

    def _memory(self) -> int:
        data = self._importer.store.read(self._member)
        fd = -1
        try:
            fd = _memfd(self._member.rpartition("/")[2])
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            reason = f"{self._member}: the system gives no memory to run it from ({error.strerror})"
            raise ImportError(reason, name=self._name, path=self._importer.root + self._member) from None
        return fd

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's initialisation."""
        _imp.exec_dynamic(module)

    def get_code(self, fullname: str) -> None:
        """There is none to show."""

    def get_source(self, fullname: str) -> None:
        """There is none to show."""


def _memfd(name: str) -> int:
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | MFD_EXEC)
    except OSError as error:
        if error.errno != EINVAL:
            raise
    return os.memfd_create(name, os.MFD_CLOEXEC)
