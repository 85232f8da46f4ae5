"""A stand-in for torch while a task's file is loaded on a device that trains an exported graph.

Such a file says what the model is in torch's words and what the data is in numpy's; the device needs
the latter alone. Names of torch may stand in imports, class definitions and annotations; whoever calls
one is told that torch is not here.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from fedloom_edge.errors import InputError

_TASKS = "fedloom_client.tasks."


@contextmanager
def without_torch() -> Iterator[None]:
    """Within it `import torch` gives the stand-in, unless torch was imported before.

    What was imported with the stand-in is forgotten afterwards, so that a later import gets the real one.
    """
    finder, before = _Finder(), set(sys.modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if _is_torch(name) or name.startswith(_TASKS):
                del sys.modules[name]


def _is_torch(name: str) -> bool:
    return name == "torch" or name.startswith("torch.")


class _Name(type):
    """A name of torch: a class, so that it can be inherited from and stand in annotations."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _named(f"{cls.__name__}.{name}")

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise InputError(
            f"{cls.__name__} was called, but this device loads the task without torch: "
            "use torch only inside model()"
        )


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _named(f"{self.__name__}.{name}")


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if _is_torch(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _named(name: str) -> type:
    return _Name(name, (), {})
