"""What runs on a device without torch: arrays, ONNX graphs, and the `fedloom` command itself."""

import os
import time

# onnxruntime and Flower report usage to their makers unless told not to before they are imported.
# Every fedloom package imports this one first, so nothing of ours phones home.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

STARTED = time.perf_counter()
"""When this process began to load fedloom, on `time.perf_counter`'s clock."""
