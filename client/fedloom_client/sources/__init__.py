"""Adapters from what people have (arrays, CSV, Parquet, images, torch, Hugging Face) to `Samples`."""
