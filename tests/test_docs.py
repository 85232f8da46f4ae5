"""The documents are there, and every one is led to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def links(document: Path) -> set[Path]:
    return {(document.parent / found).resolve() for found in LINK.findall(document.read_text())}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_has_a_title_and_says_nothing_twice(document):
    lines = document.read_text().splitlines()
    assert lines[0].startswith("# ")
    prose = [line for line in lines if len(line) > 60 and not line.startswith("|")]
    doubled = {line for line in prose if prose.count(line) > 1}
    assert not doubled


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    assert [str(path) for path in links(document) if not path.exists()] == []


def test_some_document_leads_to_every_other():
    led = set().union(*(links(document) for document in DOCUMENTS))
    assert [path.name for path in DOCUMENTS[1:] if path not in led] == []
