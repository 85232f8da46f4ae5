"""The generated code is what `make protos` makes of the .proto files."""

import subprocess
import sys
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos"


def test_the_generated_code_is_fresh_and_nothing_is_left_over(tmp_path):
    sources = sorted(PROTOS.rglob("*.proto"))
    names = [str(source.relative_to(PROTOS)) for source in sources]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *outputs, *names]
    subprocess.run(command, check=True, capture_output=True)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*")}
    committed = {path.relative_to(PROTOS): path.read_bytes() for path in PROTOS.rglob("*_pb2*.py*")}
    committed = {path: content for path, content in committed.items() if "__pycache__" not in path.parts}
    assert fresh.keys() == committed.keys()
    stale = [str(path) for path in fresh if fresh[path] != committed[path]]
    assert not stale, f"run make protos: {stale}"
