"""`python -m bench [NAME [ARGUMENT ...]]`: run `main(arguments)` of `bench.NAME`; without a name, of all."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

import bench


def names() -> tuple[str, ...]:
    """The measurements that there are."""
    found = (module.name for module in pkgutil.iter_modules(bench.__path__) if not module.ispkg)
    return tuple(sorted(name for name in found if not name.startswith("_")))


def run(arguments: Sequence[str]) -> int:
    """The exit code: 2 for an unknown name, 0 after help, else the worst of the measurements'."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n\nmeasurements: {', '.join(names())}")
        return 0
    if not arguments or arguments[0].startswith("-"):
        print("measurements:", ", ".join(names()), file=sys.stderr)
        return max((_run(name, arguments) for name in names()), default=0)
    name, *rest = arguments
    if name not in names():
        print(f"no measurement is named {name}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    return _run(name, rest)


def _run(name: str, arguments: Sequence[str]) -> int:
    code = importlib.import_module(f"bench.{name}").main(tuple(arguments))
    assert isinstance(code, int)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
