"""Starts this program: the interpreter is the right one and isolated, the launcher is what was built."""

# Becomes `__main__.py`. Every Python since 2.7 can read it, to say which one is needed. A changed byte in it must not
# go unseen before the launcher compares it: so what isolates is checked twice, and falling through is a failure.
import _signal  # type: ignore[import-not-found]  # `signal` itself takes 5 ms to load
import os
import sys

PYTHON = "@python@"
PLATFORM = "@platform@"
LAUNCHER = "@launcher@"
GLIBC = "2.28"
ISOLATED = ["-I", "-S", "-B"]
LOADS_CODE = ["OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_ENGINES", "OPENSSL_MODULES", "GCONV_PATH", "LD_AUDIT"]
AGAIN = "; get the artifact again, and check its signature"


def fail(path, reason):
    # type: (str, str) -> None
    """Say why this does not start, in one line, and end."""
    if sys.stderr is not None:
        sys.stderr.write("error: " + path.rpartition("/")[2] + ": " + reason + "\n")
    sys.exit(3)


def unsuitable():
    # type: () -> str
    """Return what this interpreter is, when it is not the one that is needed."""
    name = getattr(getattr(sys, "implementation", None), "name", "cpython").replace("cpython", "CPython")
    if name != "CPython" or ".".join(map(str, sys.version_info[:2])) != PYTHON:
        return name + " " + ".".join(map(str, sys.version_info[:3]))
    if sys.platform + "_" + os.uname()[4] != PLATFORM or sys.maxsize < 2**32:
        return sys.platform + " on " + os.uname()[4] + (" with 32 bits" if sys.maxsize < 2**32 else "")
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or "another C library"
    except (OSError, ValueError):
        library = "another C library"
    name, _, version = library.partition(" ")
    return "" if name == "glibc" and numbers(version) >= numbers(GLIBC) else library


def numbers(version):
    # type: (str) -> list[int]
    """Return a version's first two numbers."""
    return [int(part) for part in version.split(".")[:2]]


def isolate(path):
    # type: (str) -> None
    """Start again in this process without what the environment, the user or a virtual environment adds to Python."""
    options = ISOLATED + [path]  # noqa: RUF005 - older Pythons must be able to read this
    if sys.orig_argv[1:5] == options or "".join(ISOLATED) != "-I-S-B":
        fail(path, "__main__.py: cannot be isolated" + AGAIN)
    for descriptor in (0, 1, 2):  # a closed one would be given to the next file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    try:
        python = os.readlink("/proc/self/exe")  # noqa: PTH115
    except OSError:
        python = ""
    if "python" not in python.rpartition("/")[2] or not os.access(python, os.X_OK):
        python = sys.executable or ""
    try:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])  # until it is set again: see `quiet`
        os.execv(python, [python] + options + sys.argv[1:])  # noqa: RUF005, S606
    except (OSError, ValueError) as error:
        fail(path, "the interpreter " + repr(python) + " cannot be started again: " + str(error))


def quiet():
    # type: () -> None
    """Let Ctrl-C end this at once until the program begins, and nothing from the environment load code into it."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if hasattr(_signal, "pthread_sigmask"):  # not on Windows
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])
    for name in LOADS_CODE:
        os.environ.pop(name, None)


def load(archive, path):
    # type: (str, str) -> None
    """Make `clavitor_launcher` a module, from the bytes that were built and no others."""
    from hashlib import sha256

    name = "clavitor_launcher"
    source = sys.modules["__main__"].__loader__.get_data(archive + "/" + name + ".py")  # type: ignore
    if sha256(source).hexdigest() != LAUNCHER:
        fail(path, name + ".py: not what was frozen" + AGAIN)
    module = sys.modules[name] = type(sys)(name)
    module.__file__ = path + "/" + name + ".py"
    exec(compile(source, module.__file__, "exec"), module.__dict__)  # noqa: S102


def main():
    # type: () -> None
    """Run the program; whatever is in the way of starting it is one line, and the end."""
    quiet()
    archive = __file__.rpartition("/")[0]
    path = os.path.realpath(archive)
    try:
        reason = unsuitable()
        if reason:
            fail(path, "needs CPython " + PYTHON + " on " + PLATFORM + " with glibc " + GLIBC + "; this is " + reason)
        flags = sys.flags
        if not (flags.isolated and flags.no_site and flags.dont_write_bytecode and path in sys.orig_argv):
            isolate(path)
        load(archive, path)
    except Exception as error:  # noqa: BLE001
        fail(path, "__main__.py: " + type(error).__name__ + ": " + str(error) + AGAIN)
    sys.modules["clavitor_launcher"].run(path)


main()
sys.exit("error: __main__.py: not what was frozen" + AGAIN)
