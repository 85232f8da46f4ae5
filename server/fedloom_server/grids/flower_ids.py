"""Flower's process-global task identity, which a `Message` made outside a Flower process needs.

The one place that touches this private part of Flower 1.41.
"""

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 1


def adopt_identity() -> None:
    """Let this process make messages as the coordinator of run `RUN_ID`, unless Flower set an identity."""
    try:
        _ = TaskIdentity.run_id
    except RuntimeError:
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID
