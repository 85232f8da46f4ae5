"""A board's figures beside this machine's: losses within 1e-4, int8 answers to the bit.

    python compare.py HERE.npz BOARD.npz NAME

Where training rounds, two steps of all may differ by up to 1e-3. Sums in another order give weights and
activations that differ by 2e-7; where one lies on the border of two integers, as 74.499998 units here and
74.500004 there, the integer is another one, and no rule of rounding is without borders.
"""

import sys

import numpy as np

_ON_A_BORDER = 2
"""Steps that may differ by more, of twelve; on a Pi 4 and a Pi 5 one did, by 3.9e-4."""


def main(here, there, name):
    """Print a line; 1 if something is not as it must be."""
    one, two = np.load(here), np.load(there)
    bad = []
    each = {k: np.sort(np.abs(one[k] - two[k])) for k in one if k.startswith("losses/")}
    losses = max(value[-1] for value in each.values())
    floats = max(np.abs(one[k] - two[k]).max() for k in one if k.startswith("float/"))
    differing = {k: int((one[k] != two[k]).sum()) for k in one if k.startswith("int8/")}
    spared = {k: _ON_A_BORDER if k.endswith("int8") else 0 for k in each}
    if not losses <= 1e-3 or not all(value[-1 - spared[k]] <= 1e-4 for k, value in each.items()):
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
