"""`--show-partition`: how the samples fall to the clients, as text and as a picture."""

import sys
from pathlib import Path

from fedloom_simulations.setup import Setup


def show_partition(setup: Setup, out: Path | None) -> int:
    """Print the label distribution per client; with `--out DIR` also draw DIR/partition.png."""
    from fedloom_server.report.partition import draw_partition, partition_text

    shards = setup.shards
    counts = shards.label_counts()
    sizes = [len(indices) for indices in shards.indices]
    names = shards.data.class_names
    title = (
        f"{setup.plan.task.name}: {setup.recipe.partition} over {len(shards)} clients, seed {setup.plan.seed}"
    )
    sys.stdout.write(partition_text(counts, sizes, names, title) + "\n")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw_partition(counts, sizes, names, title, out / "partition.png")
        sys.stdout.write(f"{out / 'partition.png'}\n")
    return 0
