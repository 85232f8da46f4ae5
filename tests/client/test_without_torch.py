"""A task's file is loaded on a device without torch, though it is written in torch's words."""

import subprocess
import sys
import textwrap

TASK = """
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from fedloom_client import ArraySamples, Data, Task
import numpy as np

class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)

    def forward(self, x: Tensor | None) -> "Tensor":
        return F.relu(self.layer(x))

def data(folder):
    print("a user's print")
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    return Data(ArraySamples(x[:8], np.arange(8) % 2), ArraySamples(x[8:], np.arange(2)))

task = Task(name="mine", model=Net, data=data)
"""


def run(tmp_path, code, task=TASK):
    (tmp_path / "task.py").write_text(task)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)


def test_classes_and_annotations_of_torch_load_and_nothing_of_it_is_there(tmp_path):
    done = run(
        tmp_path,
        """
        import sys
        from fedloom_client.device.reading import load_task_light
        task = load_task_light("task.py")
        assert task.name == "mine"
        assert not [name for name in sys.modules if name.startswith("torch")]
        try:
            task.model()
        except Exception as error:
            print(type(error).__name__, error)
        import torch
        print(torch.__version__[0])
        """,
    )
    assert done.stderr == ""
    assert "use torch only inside model()" in done.stdout
    assert done.stdout.splitlines()[-1] == "2"


def test_a_file_that_calls_torch_when_it_is_loaded_gets_the_real_one(tmp_path):
    done = run(
        tmp_path,
        """
        from fedloom_client.device.reading import load_task_light
        print(float(load_task_light("task.py").model().scale))
        """,
        TASK.replace("class Net", "import torch\nSCALE = torch.tensor(3.0)\n\nclass Net").replace(
            "        super().__init__()", "        super().__init__()\n        self.scale = SCALE"
        ),
    )
    assert done.stdout == "3.0\n", done.stderr


def test_every_built_in_task_loads_without_torch(tmp_path):
    done = run(
        tmp_path,
        """
        import sys
        from fedloom_client.device.reading import load_task_light
        from fedloom_client.loading import BUILT_IN
        for name in BUILT_IN:
            assert load_task_light(name).name == name
        assert "torch" not in sys.modules
        assert "sklearn" not in sys.modules
        """,
    )
    assert done.returncode == 0, done.stderr
