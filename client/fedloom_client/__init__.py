"""What runs where the data is: the task contract, shards, and the trainers.

A task file needs nothing but this module:

    from fedloom_client import Task, Training, Standardize, sources
"""

import fedloom_edge  # noqa: F401  (first: it switches telemetry off)
from fedloom_client import sources
from fedloom_client.data.preprocess import Preprocess, Standardize, Vocabulary
from fedloom_client.data.samples import ArraySamples, Data, LazySamples, Samples, Shard
from fedloom_client.space import Choice, Real, Whole
from fedloom_client.task import Task
from fedloom_client.training import Training

__all__ = [
    "ArraySamples",
    "Choice",
    "Data",
    "LazySamples",
    "Preprocess",
    "Real",
    "Samples",
    "Shard",
    "Standardize",
    "Task",
    "Training",
    "Vocabulary",
    "Whole",
    "sources",
]
