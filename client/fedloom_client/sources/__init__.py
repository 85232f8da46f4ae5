"""Adapters from what people have to `Samples`, and `split` from samples to `Data`.

Heavy libraries are imported when an adapter is called.
"""

from fedloom_client.sources.arrays import npz
from fedloom_client.sources.hub import hub
from fedloom_client.sources.images import image_folder
from fedloom_client.sources.splitting import split
from fedloom_client.sources.tables import csv, parquet
from fedloom_client.sources.torch_data import torch_dataset

__all__ = ["csv", "hub", "image_folder", "npz", "parquet", "split", "torch_dataset"]
