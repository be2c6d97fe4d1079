#!/usr/bin/python3
"""Someone else's gradient is the judge: the CPU kernels against PyTorch's autograd in float64.

    test_attn_torch.py BUILD/tests/kernels/attn_run [--full] [--seed 1] [--only N]

Each case is a ragged batch laid out as a user would: packed by cu_seqlens or padded, with seqused
or without, each side for itself. Forward, LSE and all gradients are held to
    16 bits   max|x - ref| <= 2 * max|low - ref| + atol
    fp32      rms(x - ref) <= 2 * rms(low - ref) + atol / 4
              max|x - ref| <= 8 * max|low - ref| + atol
ref: autograd in float64. low: the math of attn.h rounded to the input type after every step. atol:
two rounding steps of the output type. LSE: 1e-3.

Is low an honest yardstick? It shares one thing with the kernels: delta is the sum of do times the
o that the forward gave, rounded. That is the backward's contract (o is its input), not its
accuracy: autograd's form, the sum of p times dp, has no error at all where a row sees one key,
which nothing that is handed a rounded o can match. All else is plain: torch's products, each result
rounded. In 16 bits low is far coarser than kernels that sum in fp32: past atol they have used 0.28
of its error at most, softcap or not.

In fp32 low is as fine as the kernels: both errors are draws of one distribution, and the largest of
a draw is luck. Low's own, of one case summed in six orders, differ by up to 6.4 times; the kernels'
have been up to 3.6 times low's. Root mean squares are no luck: 1.46 times at most. So those are
held to 2, and the largest, lest a single element strays, to 8. (Seeds 11 to 24; in --full with seed
20261123 0.6 of the first bound and 0.3 of the second were used where low had any error.)

The cases cover all pairs of values of all factors, and then the hazards; --full takes every
combination of mask, layout, zero lengths and length relation.
"""
import argparse
import itertools
import math
import random
import struct
import subprocess
import sys

try:
    import numpy as np
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

DTYPES = {"bf16": (0, torch.bfloat16), "fp16": (1, torch.float16), "fp32": (2, torch.float32)}

# The factors of the grid; masks are (has_left, left, has_right, right).
FACTORS = {
    "mask": {"full": (0, 0, 0, 0), "causal": (0, 0, 1, 0), "local": (1, 20, 1, 0),
             "window": (1, 7, 1, 31), "left": (1, 11, 0, 0), "right": (0, 0, 1, 40)},
    "q_layout": ["packed", "packed+used", "padded", "padded+used"],
    "k_layout": ["packed", "packed+used", "padded", "padded+used"],
    "zeros": ["none", "q", "k", "both"],
    "relation": ["equal", "shorter", "longer", "any"],
    "heads": [(2, 2), (6, 2), (5, 1), (8, 2)],
    "dims": [(64, 64), (128, 128), (8, 256), (256, 8), (96, 40), (192, 128), (72, 72), (256, 256)],
    "dtype": list(DTYPES),
    "softcap": [0.0, 1.5, 30.0],
    "sink": [False, True],
    "dlse": [False, True],
    "delta": [False, True],
}
LENGTHS = [1, 2, 17, 64, 65, 127, 128, 129, 150]


# ---- cases ----

def random_case(rng):
    return {name: rng.choice(list(values)) for name, values in FACTORS.items()}


def pairs_of(case):
    return set(itertools.combinations(sorted(case.items()), 2))


def pairwise_cases(rng):
    """Greedy: of some random cases, take the one with the most pairs not yet covered."""
    missing = {((a, x), (b, y)) for a, b in itertools.combinations(sorted(FACTORS), 2)
               for x in FACTORS[a] for y in FACTORS[b]}
    while missing:
        must = dict(rng.choice(sorted(missing, key=str)))
        candidates = [{**random_case(rng), **must} for _ in range(40)]
        best = max(candidates, key=lambda c: len(missing & pairs_of(c)))
        missing -= pairs_of(best)
        yield best


def full_cases(rng):
    first = ["mask", "q_layout", "k_layout", "zeros", "relation"]
    for values in itertools.product(*(FACTORS[name] for name in first)):
        yield {**random_case(rng), **dict(zip(first, values))}


PLAIN = {"mask": "causal", "q_layout": "packed", "k_layout": "packed", "zeros": "none",
         "relation": "equal", "heads": (2, 1), "dims": (64, 64), "dtype": "fp32", "softcap": 0.0,
         "sink": False, "dlse": True, "delta": False}
# What other implementations got wrong: (what, changes, lengths of q, lengths of k).
HAZARDS = [
    ("an empty batch", {}, [], []),
    ("all lengths zero", {"sink": True}, [0, 0], [0, 0]),
    ("one pair", {"dtype": "bf16"}, [1], [1]),
    ("empty q, long k, full neighbours", {}, [130, 0, 130], [130, 300, 130]),
    ("empty k, long q, full neighbours", {"sink": True}, [130, 300, 130], [130, 0, 130]),
    ("zero at start, middle and end", {"heads": (6, 2)}, [0, 70, 0, 33, 0], [0, 70, 0, 33, 0]),
    ("all rows of a tile see nothing", {}, [300], [20]),
    ("the same, with a sink", {"sink": True}, [300], [20]),
    ("the same, bf16 and softcap", {"dtype": "bf16", "softcap": 5.0}, [300], [20]),
    ("more keys than one tile", {"mask": "full"}, [70], [1300]),
    ("causal over many tiles", {"dtype": "bf16", "heads": (4, 2)}, [700], [900]),
    ("window over many tiles", {"mask": "local", "dims": (128, 64)}, [900], [700]),
    ("odd totals", {"q_layout": "packed+used"}, [3, 5, 7], [7, 3, 1]),
    ("lengths far apart", {"mask": "window"}, [1, 500, 2], [600, 1, 2]),
    ("large scores", {"scale": 8.0, "dtype": "fp16"}, [100], [100]),
    ("one softcap", {"softcap": 2.0}, [90], [90]),
    ("and another", {"softcap": 50.0}, [90], [90]),
]


def random_lengths(case, rng):
    count = rng.randint(2, 5)
    q = [rng.choice(LENGTHS) for _ in range(count)]
    k = {"equal": lambda n: n, "shorter": lambda n: max(1, n // 3), "longer": lambda n: n * 2 + 3,
         "any": lambda n: rng.choice(LENGTHS)}
    k = [k[case["relation"]](n) for n in q]
    for side, lengths in (("q", q), ("k", k)):
        if case["zeros"] in (side, "both"):
            lengths[rng.randrange(count)] = 0
    return q, k


def place(layout, lengths, rng):
    """Rows of each sequence on one side: (first, length, span), and how many rows there are."""
    spans = [n + rng.randint(0, 9) if "used" in layout else n for n in lengths]
    if "padded" in layout:
        longest = max(spans + [1]) + (3 if "used" in layout else 0)
        if "used" not in layout:  # a padded batch without seqused has equal lengths
            lengths = [longest] * len(lengths)
        spans = [longest] * len(lengths)
    firsts = [sum(spans[:i]) for i in range(len(spans))]
    return list(zip(firsts, lengths, spans)), sum(spans)


# ---- the judge ----

def seen(mask, len_q, len_k):
    has_left, left, has_right, right = mask
    diagonal = torch.arange(len_q)[:, None] + len_k - len_q
    j = torch.arange(len_k)[None, :]
    see = torch.ones(len_q, len_k, dtype=torch.bool)
    if has_right:
        see &= j <= diagonal + right
    if has_left:
        see &= j >= diagonal - left
    return see


def attention(q, k, v, sink, see, scale, softcap):
    """One sequence, (heads, rows, d): o, lse, and which rows see anything. For autograd."""
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    s = scale * (q @ k.transpose(1, 2))
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    s = s.masked_fill(~see, -math.inf)
    if sink is not None:
        s = torch.cat([s, sink[:, None, None].expand(-1, s.shape[1], 1)], 2)
    some = torch.isfinite(s).any(2)
    s = torch.where(some[:, :, None], s, torch.zeros_like(s))  # keeps NaN out of the gradients
    p = torch.softmax(s, 2) * some[:, :, None]
    o = p[:, :, :v.shape[1]] @ v
    lse = torch.where(some, torch.logsumexp(s, 2), torch.full((), -math.inf, dtype=s.dtype))
    return o, lse, some


def low_attention(q, k, v, do, dlse, sink, see, scale, softcap, dtype):
    """The math of the kernels (delta from the rounded o), each step rounded to the input type.

    Returns o, lse, dq, dk, dv, dsink of one sequence, (heads, rows, d)."""
    def r(x):
        return x.to(dtype).float()
    hkv, group = k.shape[0], q.shape[0] // k.shape[0]
    ks, vs = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    x = r(scale * (q @ ks.transpose(1, 2)))
    t = r(torch.tanh(x / softcap)) if softcap else torch.zeros_like(x)
    s = (r(softcap * t) if softcap else x).masked_fill(~see, -math.inf)
    none = torch.full(s.shape[:2], -math.inf)
    sinks = none if sink is None else sink[:, None].expand(s.shape[:2])
    lse = torch.logsumexp(torch.cat([s, sinks[:, :, None]], 2), 2)
    p = r(torch.exp(s - lse[:, :, None]).masked_fill(~see, 0))
    o = r(p @ vs)
    delta = (do.double() * o.double()).sum(2).float()  # not as dp is: their errors would cancel
    delta = delta - (0 if dlse is None else dlse)
    ds = r(p * (r(do @ vs.transpose(1, 2)) - delta[:, :, None]) * (1 - t * t))
    dq = r(scale * (ds @ ks))

    def sum_group(x):
        return x.unflatten(0, (hkv, group)).sum(1)
    dk = r(scale * sum_group(ds.transpose(1, 2) @ q))
    dv = r(sum_group(p.transpose(1, 2) @ do))
    dsink = -(torch.exp(sinks - lse).nan_to_num(0) * delta).sum(1)
    return o, lse, dq, dk, dv, dsink


class Batch:
    """The inputs of one case, and the judge's answers in two precisions."""

    def __init__(self, case, q_lengths, k_lengths, rng):
        torch.manual_seed(rng.randrange(1 << 30))
        self.case = case
        self.dtype = DTYPES[case["dtype"]][1]
        self.mask = FACTORS["mask"][case["mask"]]
        (hq, hkv), (d, dv) = case["heads"], case["dims"]
        self.scale = case.get("scale", 1 / math.sqrt(d))
        self.scale = float(np.float32(self.scale))
        self.q_rows, self.total_q = place(case["q_layout"], q_lengths, rng)
        self.k_rows, self.total_k = place(case["k_layout"], k_lengths, rng)
        self.q = torch.randn(self.total_q, hq, d).to(self.dtype)
        self.k = torch.randn(self.total_k, hkv, d).to(self.dtype)
        self.v = torch.randn(self.total_k, hkv, dv).to(self.dtype)
        self.do = torch.randn(self.total_q, hq, dv).to(self.dtype)
        self.dlse = torch.randn(hq, self.total_q) if case["dlse"] else None
        self.sink = torch.randn(hq) * 2 if case["sink"] else None

    def sequences(self):
        """Slices of the q rows and of the k rows of each sequence, and who sees whom."""
        for (q0, len_q, _), (k0, len_k, _) in zip(self.q_rows, self.k_rows):
            yield slice(q0, q0 + len_q), slice(k0, k0 + len_k), seen(self.mask, len_q, len_k)

    def empty_answer(self, precision):
        """Rows that no sequence uses stay so."""
        answer = {"o": torch.zeros_like(self.do, dtype=precision),
                  "lse": torch.full((self.q.shape[1], self.total_q), -math.inf, dtype=precision)}
        for name in ("q", "k", "v"):
            answer["d" + name] = torch.zeros_like(getattr(self, name), dtype=precision)
        if self.sink is not None:
            answer["dsink"] = torch.zeros_like(self.sink, dtype=precision)
        return answer

    def reference(self):
        """Autograd in float64."""
        answer = self.empty_answer(torch.float64)
        names = [n for n in ("q", "k", "v", "sink") if getattr(self, n) is not None]
        leaves = {n: getattr(self, n).double().requires_grad_() for n in names}
        loss = torch.zeros((), dtype=torch.float64)
        for rows, keys, see in self.sequences():
            q, k, v = (leaves[n][at].transpose(0, 1)
                       for n, at in (("q", rows), ("k", keys), ("v", keys)))
            o, lse, some = attention(q, k, v, leaves.get("sink"), see, self.scale,
                                     self.case["softcap"])
            answer["o"][rows] = o.detach().transpose(0, 1)
            answer["lse"][:, rows] = lse.detach()
            loss = loss + (o.transpose(0, 1) * self.do[rows].double()).sum()
            if self.dlse is not None:
                loss = loss + (lse * self.dlse[:, rows].double())[some].sum()
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            answer.update({"d" + n: g for n, g in zip(names, grads) if g is not None})
        return answer

    def low(self, backwards):
        """The same math in the input type; backwards: all sums in the opposite order."""
        def turn(x):
            return x.flip(list(range(1, x.dim()))) if backwards else x
        answer = self.empty_answer(torch.float32)
        for rows, keys, see in self.sequences():
            q, do = (turn(x[rows].float().transpose(0, 1)) for x in (self.q, self.do))
            k, v = (turn(x[keys].float().transpose(0, 1)) for x in (self.k, self.v))
            dlse = None if self.dlse is None else turn(self.dlse[:, rows])
            see = see.flip([0, 1]) if backwards else see
            o, lse, dq, dk, dv, dsink = low_attention(q, k, v, do, dlse, self.sink, see, self.scale,
                                                      self.case["softcap"], self.dtype)
            answer["lse"][:, rows] = turn(lse)
            for name, at, x in (("o", rows, o), ("dq", rows, dq), ("dk", keys, dk),
                                ("dv", keys, dv)):
                answer[name][at] = turn(x).transpose(0, 1)
            if self.sink is not None:
                answer["dsink"] += dsink
        return answer

    def lows(self):
        """16 bits: one. fp32: both orders, as a row that sees one key has gradients of 0, and low
        that sums dp and delta in the same order has no error there."""
        orders = (False, True) if self.dtype == torch.float32 else (False,)
        return [self.low(backwards) for backwards in orders]

    def o_rounding(self, ref):
        """How far rounding o to the input type can move dsink: half a step an element, with random
        signs. The largest over heads."""
        half_step = torch.finfo(self.dtype).eps / 2
        moved = (self.do.double() * ref["o"] * half_step).square().sum(2).t()
        weight = torch.exp(self.sink.double()[:, None] - ref["lse"]).square()
        moved = torch.where(torch.isfinite(ref["lse"]), weight * moved, torch.zeros_like(moved))
        return float(moved.sum(1).sqrt().max())

    def sink_rows(self, answer):
        """What each row adds to dsink, (heads, rows), by an answer's o and lse."""
        delta = (self.do.double() * answer["o"].double()).sum(2).t()
        if self.dlse is not None:
            delta = delta - self.dlse.double()
        used = torch.isfinite(answer["lse"])
        weight = torch.exp(self.sink.double()[:, None] - answer["lse"].double())
        return torch.where(used, weight * delta, torch.zeros_like(delta))


# ---- the kernels ----

def raw(tensor):
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy().tobytes()


def tensor_from(data, dtype, shape):
    kind = torch.int16 if dtype == torch.bfloat16 else dtype
    flat = torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
    return (flat.view(torch.bfloat16) if dtype == torch.bfloat16 else flat).reshape(shape)


class Kernels:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def launch(self, batch, backward, inputs, outputs):
        case = batch.case
        header = struct.pack("16q2d", backward, DTYPES[case["dtype"]][0], *case["heads"],
                             *case["dims"], *batch.mask, case["sink"], case["dlse"], case["delta"],
                             batch.total_q, batch.total_k, len(batch.q_rows), batch.scale,
                             case["softcap"])
        sequences = b"".join(
            struct.pack("6q", q[0], k[0], q[1], k[1], q[2], k[2])
            for q, k in zip(batch.q_rows, batch.k_rows))
        if batch.sink is not None:
            inputs = inputs + [batch.sink]
        self.process.stdin.write(header + sequences + b"".join(raw(x) for x in inputs))
        self.process.stdin.flush()
        return [self.read(*output) for output in outputs]

    def read(self, dtype, shape):
        size = math.prod(shape) * (4 if dtype == torch.float32 else 2)
        data = self.process.stdout.read(size)
        if len(data) != size:
            raise RuntimeError(f"attn_run ended with {self.process.wait()}")
        return tensor_from(data, dtype, shape)

    def compute(self, batch):
        f32, statistic = torch.float32, (batch.q.shape[1], batch.total_q)
        qkv = [batch.q, batch.k, batch.v]
        o, lse = self.launch(batch, 0, qkv, [(batch.dtype, batch.do.shape), (f32, statistic)])
        delta = (o.double() * batch.do.double()).sum(2).t().float()
        inputs = qkv + [batch.do, lse, delta if batch.case["delta"] else o]
        if batch.dlse is not None:
            inputs.append(batch.dlse)
        outputs = [(batch.dtype, x.shape) for x in qkv]
        if batch.sink is not None:
            outputs.append((f32, batch.sink.shape))
        names = ["dq", "dk", "dv", "dsink"]
        return {"o": o, "lse": lse, **dict(zip(names, self.launch(batch, 1, inputs, outputs)))}

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


# ---- comparing ----

def largest(x):
    return float(x.abs().max()) if x.numel() else 0.0


def rounding_steps(ref, dtype):
    """Two roundings to the output type, as flash-attention's tests take them: near |ref| + 0.3."""
    return 2 * torch.finfo(dtype).eps / 2 * (largest(ref[torch.isfinite(ref)]) + 0.3)


def root_mean_square(x):
    return float(x.square().mean().sqrt()) if x.numel() else 0.0


def dsink_scale(batch, ref, lows):
    """How far dsink can be off. It has an element a head, each a sum of row errors of random sign:
    their largest in low says little, and the root of the sum of the rows' squares stands for it;
    as that too is luck where a sequence has a row or two, with what rounding o can do."""
    rows = [batch.sink_rows(low) - batch.sink_rows(ref) for low in lows]
    return math.hypot(max(float(x.square().sum(1).sqrt().max()) for x in rows),
                      batch.o_rounding(ref))


def bounds(name, batch, ref, lows, dtype):
    """(what is measured, how, its bound) of one result."""
    if name == "lse":
        return [("largest", largest, 1e-3)]
    atol = rounding_steps(ref[name], dtype)
    fp32 = batch.dtype == torch.float32
    if name == "dsink":  # fp32: 2.3 times has been seen
        return [("largest", largest, (3 if fp32 else 2) * dsink_scale(batch, ref, lows) + atol)]
    offs = [(low[name].double() - ref[name])[torch.isfinite(ref[name])] for low in lows]
    if not fp32:
        return [("largest", largest, 2 * largest(offs[0]) + atol)]
    return [("rms", root_mean_square, 2 * max(map(root_mean_square, offs)) + atol / 4),
            ("largest", largest, 8 * max(map(largest, offs)) + atol)]


def complaints(name, batch, got, ref, lows):
    """What is wrong with one result, as a list."""
    finite = torch.isfinite(ref[name])
    if not torch.equal(finite, torch.isfinite(got)):
        return [f"{name}: inf or NaN in other places than the reference"]
    off = (got.double() - ref[name])[finite]
    return [f"{name}: {what} error {measure(off):.3g}, bound {bound:.3g}"
            for what, measure, bound in bounds(name, batch, ref, lows, got.dtype)
            if not measure(off) <= bound]


def check(kernels, case, lengths, rng):
    """What is wrong, as a list."""
    batch = Batch(case, *lengths, rng)
    ref, lows = batch.reference(), batch.lows()
    return [text for name, x in kernels.compute(batch).items()
            for text in complaints(name, batch, x, ref, lows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the built attn_run")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run this case alone")
    args = parser.parse_args()
    torch.set_num_threads(2)
    rng = random.Random(args.seed)
    cases = [(None, case, random_lengths(case, rng))
             for case in (full_cases if args.full else pairwise_cases)(rng)]
    cases += [(what, {**PLAIN, **changes}, (q, k)) for what, changes, q, k in HAZARDS]
    kernels = Kernels(args.program)
    failures = 0
    for number, (what, case, lengths) in enumerate(cases):
        if args.only is not None and number != args.only:
            continue
        wrong = check(kernels, case, lengths, random.Random(args.seed * 100003 + number))
        if wrong:
            failures += 1
            print(f"case {number} {what or ''} {case} {lengths}\n    " + "\n    ".join(wrong))
    status = kernels.close()
    print(f"{len(cases)} cases against PyTorch {torch.__version__}, {failures} failed")
    return 1 if failures or status else 0


if __name__ == "__main__":
    sys.exit(main())
