#!/usr/bin/python3
"""The CPU kernels beside PyTorch on the same cores: milliseconds of forward and backward.

    bench_cpu.py BUILD/tests/bench/bench_cpu [--threads 2] [--seconds 0.5] [--cpu] [--json]

Each case is run by the C program, then by every form PyTorch's user could write (plain matmul and
softmax with autograd, per document, heads as the batch; its own scaled_dot_product_attention where
it has one: 2.0 and later); the fastest one counts. A time is the best
of its repetitions. PyTorch's backward is autograd alone, on a graph that is there already. --cpu
measures processor time on one thread, for a machine that others use, too.
"""
import argparse
import json
import math
import subprocess
import sys
import time

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHUNK = 256  # rows of the chunked form


def plain(q, k, v, bias, scale):
    s = torch.matmul(q, k.transpose(-1, -2)) * scale
    if bias is not None:
        s = s + bias
    return torch.matmul(torch.softmax(s, -1), v)


def fused_bias(q, k, v, bias, scale):
    if bias is None:
        s = torch.bmm(q * scale, k.transpose(-1, -2))
    else:
        s = torch.baddbmm(bias, q, k.transpose(-1, -2), alpha=scale)
    return torch.bmm(torch.softmax(s, -1), v)


def per_head(q, k, v, bias, scale):
    b = None if bias is None else bias[0]
    return torch.stack([plain(q[h], k[h], v[h], b, scale) for h in range(q.shape[0])])


def chunked(q, k, v, bias, scale):
    """Skips what a causal mask hides: rows in chunks, each against its own prefix of keys."""
    if bias is None:
        return fused_bias(q, k, v, bias, scale)
    parts = []
    for first in range(0, q.shape[1], CHUNK):
        end = min(first + CHUNK, q.shape[1])
        parts.append(fused_bias(q[:, first:end], k[:, :end], v[:, :end],
                                bias[:, first:end, :end], scale))
    return torch.cat(parts, 1)


def sdpa(q, k, v, bias, scale):
    out = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=bias is not None, scale=scale)
    return out[0]


FORMS = {"plain": plain, "baddbmm": fused_bias, "per head": per_head, "chunked": chunked}
if hasattr(torch.nn.functional, "scaled_dot_product_attention"):
    FORMS["sdpa"] = sdpa


clock = time.perf_counter


def best_ms(work, seconds):
    best, end, runs = math.inf, clock() + seconds, 0
    while runs < 2 or clock() < end:
        start = clock()
        work()
        best = min(best, clock() - start)
        runs += 1
    return best * 1e3


def torch_case(case, form, seconds):
    """Forward and backward of one document, times the number of documents."""
    dtype, length, d = DTYPES[case["dtype"]], case["length"], case["d"]
    q, k, v, grad = (torch.randn(case["heads"], length, d).to(dtype) for _ in range(4))
    bias = None
    if case["causal"]:
        bias = torch.full((1, length, length), -math.inf).triu(1).to(dtype)
    scale = 1 / math.sqrt(d)
    with torch.no_grad():
        forward = best_ms(lambda: form(q, k, v, bias, scale), seconds)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = form(*inputs, bias, scale)
    backward = best_ms(lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True), seconds)
    return {"forward": forward * case["documents"], "backward": backward * case["documents"]}


def compare(case, results, seconds):
    """Adds PyTorch's fastest form to the rows of one case."""
    times = {}
    for name, form in FORMS.items():
        try:
            times[name] = torch_case(case, form, seconds)
        except RuntimeError as error:  # fp16 has no CPU matmul there
            print(f"# {name}, {case['dtype']}: {str(error).splitlines()[0]}", file=sys.stderr)
    for row in results:
        row["torch_ms"] = {name: round(t[row["pass"]], 3) for name, t in times.items()}
        if times:
            row["torch_form"] = min(row["torch_ms"], key=row["torch_ms"].get)
            row["torch_best_ms"] = row["torch_ms"][row["torch_form"]]
            row["times_faster"] = round(row["torch_best_ms"] / row["ms"], 2)


def print_row(row):
    print(f"{row['pass']:9}{row['dtype']:5}{row['d']:4}{row['length']:6}"
          f"{'causal' if row['causal'] else 'full':>8}{row['ms']:10.2f}{row['gflops']:9.1f}"
          f"{row.get('torch_best_ms', math.nan):10.2f} {row.get('torch_form', '-'):9}"
          f"{row.get('times_faster', math.nan):7.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", help="the C program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    if args.cpu:
        global clock
        clock, args.threads = time.process_time, 1
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    if not args.json:
        print(f"PyTorch {torch.__version__}, {args.threads} threads, 8 heads, 4096 tokens in all\n"
              f"{'pass':9}{'type':5}{'d':>4}{'length':>6}{'mask':>8}{'ms':>10}{'GFLOPS':>9}"
              f"{'torch ms':>10} {'form':9}{'faster':>7}")
    index = 0
    while True:
        command = [args.bench, str(args.threads), str(args.seconds), str(index),
                   "cpu" if args.cpu else "wall"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results = [json.loads(line) for line in output.splitlines()]
        if not results:
            return
        compare(results[0], results, args.seconds)
        for row in results:
            if args.json:
                print(json.dumps(row), flush=True)
            else:
                print_row(row)
        index += 1


if __name__ == "__main__":
    main()
