"""GRU, LSTM and RNN against torch autograd: steps, layers, directions, given states, what is read of them."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from fedloom_edge.autodiff import StepSettings, build_train_step
from fedloom_edge.export import training_graph
from fedloom_edge.train_step import TrainStep

LAW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 5)


class Net(nn.Module):
    """A recurrent layer between linear maps: of its inputs, its first state, and what it gives."""

    def __init__(self, kind, inputs, units, layers, both, given, read):
        super().__init__()
        self.first = nn.Linear(inputs, inputs)
        extra = {"nonlinearity": "tanh"} if kind is nn.RNN else {}
        self.layer = kind(inputs, units, layers, bidirectional=both, batch_first=True, **extra)
        self.count, self.units, self.read = layers * (1 + both), units, read
        self.cell = kind is nn.LSTM
        self.start = nn.Linear(inputs, self.count * units) if given else None
        self.head = nn.Linear(units * (1 + both) if read == "states" else units * self.count, 2)

    def forward(self, x):
        x = self.first(x)
        state = None
        if self.start is not None:
            state = self.start(x[:, 0]).unflatten(1, (self.count, self.units)).transpose(0, 1).contiguous()
            state = (state, state.tanh()) if self.cell else state
        states, last = self.layer(x, state)
        if self.read == "states":
            return self.head(states.square().mean(1))
        last = last[self.read == "cell"] if self.cell else last
        return self.head(last.transpose(0, 1).flatten(1))


@LAW
@given(kind=st.sampled_from([nn.GRU, nn.LSTM, nn.RNN]), batch=small, steps=small, inputs=small, units=small,
       layers=st.integers(1, 2), both=st.booleans(), given_state=st.booleans(),
       read=st.sampled_from(["states", "last", "cell"]), seed=seeds)  # fmt: skip
def test_gradients_of_whole_layers(kind, batch, steps, inputs, units, layers, both, given_state, read, seed):
    torch.manual_seed(seed)
    module = Net(kind, inputs, units, layers, both, given_state, read)
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(batch, steps, inputs)).astype(np.float32)
    y = draw.normal(size=(batch, 2)).astype(np.float32)
    model = training_graph(module, x[:1])
    graph = build_train_step(model, StepSettings(loss="mse", optimizer="sgd"), batch=batch)
    step = TrainStep(graph.SerializeToString(), batch=batch)
    before = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    step.set_arrays(before)
    step(x, y, lr=1.0)
    nn.functional.mse_loss(module(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    after = step.arrays()
    theirs = {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}
    assert {*theirs} == {*after}
    for name, gradient in theirs.items():
        close(before[name] - after[name], gradient, name)


@LAW
@given(batch=small, steps=small, inputs=small, units=small, backwards=st.booleans(), seed=seeds)
def test_a_gru_that_resets_before_its_product(agree, batch, steps, inputs, units, backwards, seed):
    """Keras's form with reset_after=False, which torch has no layer for: n = tanh(W x + b + R (r h) + c)."""
    draw = np.random.default_rng(seed)
    feeds = {
        "x": draw.normal(size=(steps, batch, inputs)),
        "w": draw.normal(size=(1, 3 * units, inputs)),
        "r": draw.normal(size=(1, 3 * units, units)),
        "b": draw.normal(size=(1, 6 * units)),
    }

    def function(x, w, r, b):
        (wz, wr, wn), (rz, rr, rn) = w[0].chunk(3), r[0].chunk(3)
        bz, br, bn, cz, cr, cn = b[0].chunk(6)
        h, states = x.new_zeros(batch, units), []
        for one in x.flip(0) if backwards else x:
            z = (one @ wz.T + bz + h @ rz.T + cz).sigmoid()
            reset = (one @ wr.T + br + h @ rr.T + cr).sigmoid()
            n = (one @ wn.T + bn + (reset * h) @ rn.T + cn).tanh()
            h = (1 - z) * n + z * h
            states.append(h)
        return torch.stack(states[::-1] if backwards else states).unsqueeze(1)

    direction = "reverse" if backwards else "forward"
    agree(function, "GRU", feeds, hidden_size=units, direction=direction)


def close(ours, theirs, what):
    scale = max(float(np.abs(theirs).max(initial=0)), 1e-2)
    worst = float(np.abs(ours - theirs).max(initial=0))
    assert worst <= 1e-4 * scale, f"{what}: off by {worst:.3g} of {scale:.3g}"
