"""Reverse-mode differentiation of ONNX graphs: a model in, its train step out.

    from fedloom_edge.autodiff import StepSettings, build_train_step

    step = build_train_step(model, StepSettings(loss="cross_entropy", optimizer="adam"), trainable="last:2")

This package needs `onnx`; what it makes runs on onnxruntime alone (`fedloom_edge.train_step`).
"""

from fedloom_edge.autodiff.evaluation import build_evaluation
from fedloom_edge.autodiff.lora import add_lora, merge_lora
from fedloom_edge.autodiff.step import build_train_step
from fedloom_edge.step_settings import StepSettings, StepSignature

__all__ = ["StepSettings", "StepSignature", "add_lora", "build_evaluation", "build_train_step", "merge_lora"]
