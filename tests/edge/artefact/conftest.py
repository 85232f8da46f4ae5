"""A real artefact, made once: digits, whose head is trained further."""

import shutil

import pytest

from fedloom_edge.artefact.storage import Artefact


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Folder of an artefact of the task digits."""
    from fedloom_edge.cli import main

    folder = tmp_path_factory.mktemp("artefact") / "digits"
    assert main(["edge", "export", "digits", "--explain", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(digits, tmp_path):
    """A copy of it that a test may spoil."""
    return shutil.copytree(digits, tmp_path / "copy")


@pytest.fixture
def artefact(digits):
    return Artefact(digits)
