"""GRU layers of K clients, forward and backward by hand (Cho et al., 2014, in PyTorch's variant).

vmap has no rule for `torch.gru`, and a loop under autograd would record a dozen operations a time
step; here a time step is a few operations on all clients, and the weights' gradients are one product.
"""

from typing import Any

import torch
from torch import Tensor


def gru_layer(x: Tensor, start: Tensor, weights: list[Tensor], *, reverse: bool) -> Tensor:
    """States (K, B, T, H) of one layer and direction.

    Args:
        x: inputs (K, B, T, I).
        start: first state (K, B, H).
        weights: w_ih (K, 3H, I), w_hh (K, 3H, H), and b_ih, b_hh (K, 3H) or nothing.
        reverse: go from the last time step to the first.
    """
    w_ih, w_hh = weights[:2]
    biases = weights[2:] or [w_ih.new_zeros(w_ih.shape[:2]) for _ in range(2)]
    steps = x.transpose(1, 2)  # (K, T, B, I)
    steps = steps.flip(1) if reverse else steps
    clients, times, batch = steps.shape[:3]
    # The inputs' share of all gates at once: (K, T * B, 3H).
    given = torch.baddbmm(biases[0].unsqueeze(1), steps.reshape(clients, times * batch, -1), w_ih.mT)
    given = given.view(clients, times, batch, -1).transpose(0, 1)
    states: Tensor = _Recurrence.apply(given.contiguous(), start.contiguous(), w_hh, biases[1])  # type: ignore[no-untyped-call]
    out = states.permute(1, 2, 0, 3)  # (T, K, B, H) -> (K, B, T, H)
    return out.flip(2) if reverse else out


class _Recurrence(torch.autograd.Function):
    """The part of a GRU that goes step by step."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, start: Tensor, w: Tensor, b: Tensor) -> Tensor:
        times, (clients, batch, size) = len(given), start.shape
        states = given.new_empty(times + 1, clients, batch, size)
        gates = given.new_empty(times, clients, batch, 3 * size)  # reset, update, candidate
        pre = given.new_empty(times, clients, batch, size)  # the candidate's recurrent share
        states[0] = start
        bias, turned = b.unsqueeze(1), w.mT
        for t in range(times):
            told = torch.baddbmm(bias, states[t], turned)  # (K, B, 3H)
            both = torch.add(given[t, ..., : 2 * size], told[..., : 2 * size], out=gates[t, ..., : 2 * size])
            both.sigmoid_()
            pre[t] = told[..., 2 * size :]
            new = torch.addcmul(given[t, ..., 2 * size :], both[..., :size], pre[t]).tanh_()
            gates[t, ..., 2 * size :] = new
            torch.lerp(new, states[t], both[..., size:], out=states[t + 1])
        ctx.save_for_backward(states, gates, pre, w)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        states, gates, pre, w = ctx.saved_tensors
        times, clients, batch, size = pre.shape
        reset, update, new = (gates[..., i * size : (i + 1) * size] for i in range(3))
        # What a state's gradient is multiplied with, for all time steps at once.
        to_new = (1 - update) * (1 - new.square())
        to_update = (states[:-1] - new) * update * (1 - update)
        to_reset = to_new * pre * reset * (1 - reset)
        factors = torch.cat([to_reset, to_update, to_new * reset], 3).view(times, clients, batch, 3, size)
        told = torch.empty_like(gates)
        flow = torch.empty_like(pre)  # the gradient of each state
        later = grad.new_zeros(clients, batch, size)
        for t in reversed(range(times)):
            now = torch.add(later, grad[t], out=flow[t])
            torch.mul(factors[t], now.unsqueeze(2), out=told[t].view(clients, batch, 3, size))
            later = torch.baddbmm(now * update[t], told[t], w)
        given = told.clone()
        given[..., 2 * size :] = flow * to_new
        flat = told.transpose(0, 1).reshape(clients, times * batch, 3 * size)
        before = states[:-1].transpose(0, 1).reshape(clients, times * batch, size)
        return given, later, torch.bmm(flat.mT, before), flat.sum(1)
