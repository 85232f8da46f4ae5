"""The pictures that `fedloom explain` leaves beside a run's report."""

from pathlib import Path

PICTURES = {"explain.png": "what the model looks at", "contribution.png": "what each client gave"}
"""What each of them shows."""


def pictures(folder: Path) -> dict[str, str]:
    """What is drawn in each picture that is in a run's folder, by its name."""
    return {name: what for name, what in PICTURES.items() if (folder / name).is_file()}
