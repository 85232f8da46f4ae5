"""A board's figures beside this machine's: losses within 1e-4 (1e-3 with rounding), int8 answers to the bit.

python compare.py HERE.npz BOARD.npz NAME
"""

import sys

import numpy as np


def main(here, there, name):
    """Print a line; 1 if something is not as it must be."""
    one, two = np.load(here), np.load(there)
    bad = []
    each = {k: float(np.abs(one[k] - two[k]).max()) for k in one if k.startswith("losses/")}
    losses = max(each.values())
    floats = max(np.abs(one[k] - two[k]).max() for k in one if k.startswith("float/"))
    differing = {k: int((one[k] != two[k]).sum()) for k in one if k.startswith("int8/")}
    # In a step that rounds, a value on the border of two integers can fall to either side.
    if not all(value <= (1e-3 if k.endswith("int8") else 1e-4) for k, value in each.items()):
        bad.append(f"losses {each}")
    if any(differing.values()):
        bad.append(f"int8 {differing}")
    if len(two["telemetry"]):
        bad.append(f"telemetry {list(two['telemetry'])}")
    verdict = f"NOT GOOD: {', '.join(bad)}" if bad else "good"
    sys.stdout.write(
        f"{name}: losses differ by {losses:.1e}, float answers by {floats:.1e}, "
        f"int8 answers in {sum(differing.values())} places: {verdict}\n"
    )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
