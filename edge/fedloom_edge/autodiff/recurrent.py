"""Gradients of GRU, LSTM and RNN layers by backpropagation through time.

Only what truly runs step by step is unrolled. The runtime's fused operator makes all states h; from them
the gates of every step are recomputed in one product; then, since each pre-activation's gradient is linear
in the gradient of h, one multiplication and one small product a step carry it back; and the gradients of
the weights are one product over all steps together.

T steps, B examples, I inputs, H units, G gates, which stand as ONNX orders them: z r h for GRU,
i o f c for LSTM.
"""

from fedloom_edge.autodiff.directions import Direction, direction, direction_count, pick, stack
from fedloom_edge.autodiff.rules import Gradients, Tape, rule
from fedloom_edge.autodiff.values import Node
from fedloom_edge.errors import InputError

_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def lower_recurrent(node: Node, g: Tape) -> Node:
    """The layer, checked, with its output of all states even if the model does not use it.

    Raises:
        InputError: it has a form that has no gradient here.
    """
    _check(node, g)
    states = node.outputs[0] or g.fresh("states")
    g.write(node.op, node.inputs, [states, *node.outputs[1:]], dict(node.attributes))
    return Node(node.op, node.name, node.inputs, node.outputs, node.attributes, {"states": states})


@rule("GRU", "LSTM", "RNN")
def recurrent(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Backpropagation through time (Werbos, 1990); GRU after Cho et al., 2014, LSTM after Hochreiter and
    Schmidhuber, 1997, in ONNX's equations.
    """
    directions = [direction(node, index, g) for index in range(direction_count(node))]
    parts = [_Backward(node, one, gradients, g).run() for one in directions]
    into: list[str | None] = [g.sum([part["x"] for part in parts])]
    for name in ("w", "r", "b"):
        into.append(stack([part[name] for part in parts], g))
    into += [None, stack([part["h"] for part in parts], g)]
    if node.op == "LSTM":
        into.append(stack([part["c"] for part in parts], g))
    return into


class _Backward:
    """The backward pass of one direction."""

    def __init__(self, node: Node, one: Direction, gradients: Gradients, g: Tape) -> None:
        self.node, self.one, self.g = node, one, g
        self.bias = self._direction_of(node.input(3)) if node.input(3) else ""  # (2 G H)
        self.d_states = self._states(gradients[0])  # T gradients (B, H), or none
        self.d_last = self._last(gradients[1]) if len(gradients) > 1 else ""
        self.d_last_cell = self._last(gradients[2]) if len(gradients) > 2 else ""

    def run(self) -> dict[str, str]:
        """Names of the gradients: x (T, B, I), w, r, b, h and c (B, H)."""
        match self.node.op:
            case "LSTM":
                return self._lstm()
            case "GRU":
                return self._gru()
            case _:
                return self._rnn()

    def _rnn(self) -> dict[str, str]:
        """h = tanh(a), a = W x + R h₋ + b: da = dh (1 - h²)."""
        g, one = self.g, self.one
        slope = self._one_minus(g.op("Mul", one.h, one.h))
        slopes, d_a = self._steps(slope), [""] * one.steps
        carry = self.d_last
        for t in reversed(range(one.steps)):
            d_a[t] = g.op("Mul", self._arriving(t, carry), slopes[t])  # (B, H)
            carry = g.op("MatMul", d_a[t], one.r)
        gates = self._joined(d_a)  # (T, B, H)
        return self._weights(gates, gates) | {"h": carry}

    def _gru(self) -> dict[str, str]:
        """h = (1-z) n + z h₋, with n = tanh(Wx + b + r (R h₋ + c)), or R (r h₋) + c outside.

        dz = dh (h₋ - n) z (1-z); dn = dh (1-z) (1-n²); where r stands outside of the product, dr =
        dn (R h₋ + c) r (1-r) and the product gets dn r: all linear in dh.
        """
        g, one = self.g, self.one
        size, outside = one.units, bool(self.node.attributes.get("linear_before_reset", 0))
        from_x = self._affine(one.x, one.w, 0, 3)  # (T, B, 3H)
        from_h = self._affine(one.before, one.r, 1, 3 if outside else 2)
        xz, xr, xn = self._split(from_x, 3)
        parts = self._split(from_h, 3 if outside else 2)
        z = g.op("Sigmoid", g.op("Add", xz, parts[0]))
        r = g.op("Sigmoid", g.op("Add", xr, parts[1]))
        inner = parts[2] if outside else self._reset_product(r)
        n = g.op("Tanh", g.op("Add", xn, g.op("Mul", r, inner) if outside else inner))
        not_z = self._one_minus(z)
        kn = g.op("Mul", not_z, self._one_minus(g.op("Mul", n, n)))
        kz = g.op("Mul", g.op("Sub", one.before, n), g.op("Mul", z, not_z))
        kr = g.op("Mul", r, self._one_minus(r))
        if not outside:
            return self._gru_inside(z, r, kz, kn, kr)
        kr = g.op("Mul", g.op("Mul", kn, inner), kr)
        factors = self._steps(g.op("Concat", kz, kr, g.op("Mul", kn, r), axis=2))  # (B, 3H)
        keeps, arriving, pushed = self._steps(z), [""] * one.steps, [""] * one.steps
        carry = self.d_last
        for t in reversed(range(one.steps)):
            arriving[t] = d = self._arriving(t, carry)  # (B, H)
            pushed[t] = g.op("Mul", g.op("Concat", d, d, d, axis=1), factors[t])
            back = g.op("MatMul", pushed[t], one.r)
            carry = g.op("Add", g.op("Mul", d, keeps[t]), back)
        into_h = self._joined(pushed)  # (T, B, 3H)
        gates = g.slice(into_h, 2, 0, 2 * size)
        into_x = g.op("Concat", gates, g.op("Mul", self._joined(arriving), kn), axis=2)
        return self._weights(into_x, into_h) | {"h": carry}

    def _gru_inside(self, z: str, r: str, kz: str, kn: str, kr: str) -> dict[str, str]:
        """The form with r inside of the product: dr needs dn times R first."""
        g, one, size = self.g, self.one, self.one.units
        first, last = g.slice(one.r, 0, 0, 2 * size), g.slice(one.r, 0, 2 * size, 3 * size)
        kzs, kns, keeps, resets = (self._steps(name) for name in (kz, kn, z, r))
        krs = self._steps(g.op("Mul", one.before, kr))
        pushed, carry = [""] * one.steps, self.d_last
        for t in reversed(range(one.steps)):
            d = self._arriving(t, carry)
            d_n = g.op("Mul", d, kns[t])
            inner = g.op("MatMul", d_n, last)  # gradient of r h₋
            d_zr = g.op("Concat", g.op("Mul", d, kzs[t]), g.op("Mul", inner, krs[t]), axis=1)
            back = g.op("Add", g.op("MatMul", d_zr, first), g.op("Mul", inner, resets[t]))
            carry = g.op("Add", g.op("Mul", d, keeps[t]), back)
            pushed[t] = g.op("Concat", d_zr, d_n, axis=1)
        gates = self._joined(pushed)  # (T, B, 3H)
        result = self._weights(gates, gates)
        reset_states = g.op("Mul", r, one.before)
        of_n = self._product(g.slice(gates, 2, 2 * size, 3 * size), reset_states, size)
        result["r"] = g.op("Concat", g.slice(result["r"], 0, 0, 2 * size), of_n, axis=0)
        return result | {"h": carry}

    def _reset_product(self, r: str) -> str:
        """R (r h₋) + c for all steps at once."""
        g, one, size = self.g, self.one, self.one.units
        weights = g.transpose(g.slice(one.r, 0, 2 * size, 3 * size), 1, 0)
        product = g.op("MatMul", g.op("Mul", r, one.before), weights)
        return g.op("Add", product, g.slice(self.bias, 0, 5 * size, 6 * size)) if self.bias else product

    def _lstm(self) -> dict[str, str]:
        """c = f c₋ + i g, h = o tanh c: dc += dh o (1 - tanh² c), and every gate is linear in dh or dc."""
        g, one = self.g, self.one
        total = g.op("Add", self._affine(one.x, one.w, 0, 4), self._affine(one.before, one.r, 1, 4))
        i, o, f, n = self._split(total, 4)  # (T, B, H)
        i, o, f, n = (
            g.op(kind, gate) for kind, gate in zip(["Sigmoid"] * 3 + ["Tanh"], (i, o, f, n), strict=True)
        )
        forgets, added = self._steps(f), self._steps(g.op("Mul", i, n))
        cells, cell = [], one.first_cell
        for t in range(one.steps):
            cell = g.op("Add", g.op("Mul", forgets[t], cell), added[t]) if cell else added[t]
            cells.append(cell)
        c = self._joined(cells)
        first = one.first_cell or g.op("Sub", cells[0], cells[0])
        c_before = self._joined([first, *cells[:-1]])
        bent = g.op("Tanh", c)
        ko = g.op("Mul", bent, g.op("Mul", o, self._one_minus(o)))
        into_cell = self._steps(g.op("Mul", o, self._one_minus(g.op("Mul", bent, bent))))
        ki = g.op("Mul", n, g.op("Mul", i, self._one_minus(i)))
        kf = g.op("Mul", c_before, g.op("Mul", f, self._one_minus(f)))
        kn = g.op("Mul", i, self._one_minus(g.op("Mul", n, n)))
        factors = self._steps(g.op("Concat", ki, ko, kf, kn, axis=2))  # (B, 4H)
        gates, carry, d_c = [""] * one.steps, self.d_last, self.d_last_cell
        for t in reversed(range(one.steps)):
            d = self._arriving(t, carry)
            through = g.op("Mul", d, into_cell[t])
            d_c = g.op("Add", through, d_c) if d_c else through
            gates[t] = g.op("Mul", g.op("Concat", d_c, d, d_c, d_c, axis=1), factors[t])
            carry = g.op("MatMul", gates[t], one.r)
            d_c = g.op("Mul", d_c, forgets[t])
        joined = self._joined(gates)  # (T, B, 4H)
        return self._weights(joined, joined) | {"h": carry, "c": d_c}

    def _weights(self, into_x: str, into_h: str) -> dict[str, str]:
        """Gradients of x and the weights from those of the pre-activations (T, B, G H)."""
        g, one = self.g, self.one
        inputs = g.values[self.node.inputs[0]].typical[2]
        d_x = g.op("MatMul", into_x, one.w)
        biases = [g.reduce(d, [0, 1], keep=False) for d in (into_x, into_h)]
        return {
            "x": self._in_time(d_x),
            "w": self._product(into_x, one.x, inputs),
            "r": self._product(into_h, one.before, one.units),
            "b": g.op("Concat", *biases, axis=0),
        }

    def _product(self, gates: str, states: str, width: int) -> str:
        """Σ over steps and examples of gates ⊗ states: (G H, width)."""
        g = self.g
        rows = g.op("Reshape", states, g.ints(-1, width))
        return g.op("Gemm", g.op("Flatten", gates, axis=2), rows, transA=1)

    def _affine(self, x: str, weights: str, half: int, gates: int) -> str:
        """x Wᵀ + b of the first `gates` gates for all steps; `half` of the bias: 0 W's, 1 R's."""
        g, size, count = self.g, self.one.units, _GATES[self.node.op]
        part = weights if gates == count else g.slice(weights, 0, 0, gates * size)
        product = g.op("MatMul", x, g.transpose(part, 1, 0))
        if not self.bias:
            return product
        first = half * count * size
        return g.op("Add", product, g.slice(self.bias, 0, first, first + gates * size))

    def _arriving(self, t: int, carry: str) -> str:
        """Gradient of the state of a step: from the output and from the step after it."""
        terms = [name for name in (self.d_states[t] if self.d_states else "", carry) if name]
        if not terms:  # only the last cell is used: nothing arrives at the last state
            zero = self._steps(self.g.op("Sub", self.one.h, self.one.h))
            return zero[t]
        return self.g.sum(terms)

    def _states(self, gradient: str | None) -> list[str]:
        if gradient is None:
            return []
        one = self._direction_of(gradient, axis=1)  # (T, B, H)
        return self._steps(self._in_time(one))

    def _last(self, gradient: str | None) -> str:
        return self._direction_of(gradient) if gradient else ""

    def _direction_of(self, name: str, axis: int = 0) -> str:
        return pick(name, self.one.index, axis, direction_count(self.node), self.g)

    def _in_time(self, name: str) -> str:
        return self.g.slice(name, 0, -1, -(1 << 62), -1) if self.one.backwards else name

    def _steps(self, name: str) -> list[str]:
        """The steps (B, ...) of (T, B, ...)."""
        g, steps = self.g, self.one.steps
        if steps == 1:
            return [g.op("Squeeze", name, g.ints(0))]
        parts = g.ops("Split", name, g.ints(*[1] * steps), outputs=steps, axis=0)
        return [g.op("Squeeze", part, g.ints(0)) for part in parts]

    def _joined(self, steps: list[str]) -> str:
        """(T, B, ...) of its steps."""
        g = self.g
        return g.op("Concat", *(g.op("Unsqueeze", step, g.ints(0)) for step in steps), axis=0)

    def _split(self, name: str, gates: int) -> tuple[str, ...]:
        return self.g.ops("Split", name, self.g.ints(*[self.one.units] * gates), outputs=gates, axis=2)

    def _one_minus(self, name: str) -> str:
        return self.g.op("Sub", self.g.constant(1.0), name)


def _check(node: Node, g: Tape) -> None:
    refused = {
        "sequence lengths": bool(node.input(4)),
        "peephole weights": bool(node.input(7)),
        "other activations": bool(node.attributes.get("activations"))
        and _names(node) not in (["Sigmoid", "Tanh"], ["Sigmoid", "Tanh", "Tanh"], ["Tanh"]),
        "clipped gates": "clip" in node.attributes,
        "coupled gates": bool(node.attributes.get("input_forget", 0)),
        "the batch as first axis": bool(node.attributes.get("layout", 0)),
        "a variable number of steps": g.values[node.inputs[0]].shape[0] is None,
    }
    for what, is_so in refused.items():
        if is_so:
            raise InputError(f"{node} has {what}, which no gradient rule covers; export the model without")


def _names(node: Node) -> list[str]:
    """The activations of one direction; both must have the same."""
    names = [a.decode() if isinstance(a, bytes) else str(a) for a in node.attributes["activations"]]
    half = len(names) // direction_count(node)
    return names[:half] if names == names[:half] * direction_count(node) else names
