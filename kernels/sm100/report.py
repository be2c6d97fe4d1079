#!/usr/bin/env python3
"""
report.py [--check] [DIR]: what the machine code of each sm_100 variant holds, as report.md.

Compiles kernels/sm100/*.cu for 100f into DIR (default: a temporary one; what is there already is
taken) and reads ptxas' log and nvdisasm's listing. Wants nvcc and nvdisasm in PATH; 77 without.
Run it into report.md after a change of a kernel; --check says whether that was done.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FILES = ["fwd_64", "fwd_128", "fwd_192", "fwd_256", "bwd_64", "bwd_128", "bwd_mixed", "bwd_192",
         "bwd_256"]

# Opcode prefixes by pipe, the first that fits; what is left is the ALU's.
PIPES = [
    ("MMA", ("UTCHMMA",)),
    ("TMEM", ("LDTM", "STTM")),
    ("copy", ("UTMA", "UBLK", "UTCBAR")),
    ("MUFU", ("MUFU",)),
    ("FMA", ("FFMA", "FMUL", "FADD", "IMAD")),
    ("LSU", ("LDS", "STS", "LDG", "STG", "LD.", "ST.", "LDL", "STL", "ATOM", "RED", "SHFL")),
    ("control", ("BRA", "SYNCS", "BAR", "WARPSYNC", "NOP", "ELECT", "DEPBAR", "FENCE", "MEMBAR",
                 "BSSY", "BSYNC", "NANOSLEEP", "VOTE", "CCTL", "ERRBAR", "EXIT", "CALL", "RET")),
    ("uniform", ("U", "R2U", "S2U", "LDCU", "LDC")),
    ("ALU", ("",)),
]
NAMES = [name for name, _ in PIPES]

# Cycles that a warp's instruction takes of its scheduler's quarter of an SM.
MUFU_CYCLES, ALU_CYCLES = 8, 2
MMA_FLOP, SMEM_BYTES = 8192, 128  # a cycle of an SM

HEAD = """# What the machine code of the sm_100 kernels holds

Written by report.py, bf16 under 100f; not measured, the project has had no such GPU. Instructions
are those of a warp in one pass of the loop that makes P: forward, a softmax warp and an unmasked
block of 128 keys; backward, a compute warp and a step (32 keys x 64 queries; of pairs of CTAs, d
over 128, 32 x 32), with the code of masks, which most steps skip. Waits count once.
Registers: at launch, then what each role moves to. Columns: of tensor memory.

Cycles: of an SM (of each of a pair) for 128 queries x 128 keys: products (8192 FLOP a cycle), MUFU
(16 lanes a cycle), ALU (64), issue of that loop (a warp instruction a cycle of each scheduler; the
other roles come on top), shared memory (128 bytes a cycle). The bound is the largest, as if all
else were hidden behind it; "of peak" what the tensor cores would then reach. FlashAttention-4
publishes 71 % (forward, d 128), 55 % (backward, d 128) and 30 to 40 % (backward, d 64) on a B200.
"""


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True)


def compiled(folder, name):
    cubin, log = f"{folder}/sm100_{name}.cubin", f"{folder}/sm100_{name}.log"
    if not os.path.exists(cubin):
        out = run("nvcc", "-std=c++17", "-O3", f"-I{ROOT}/kernels", f"-I{ROOT}", "-gencode",
                  "arch=compute_100f,code=sm_100f", "-Xptxas=-v", "-cubin", "-o", cubin,
                  f"{HERE}/{name}.cu")
        with open(log, "w") as file:
            file.write(out.stdout + out.stderr)
    with open(log) as file:
        return file.read(), run("nvdisasm", "-c", cubin).stdout


def variants(log):
    """{mangled name: (registers, spilled bytes)} of the main kernels."""
    found = {}
    pattern = r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
    for name, spilled, registers in re.findall(pattern, log, re.S):
        if re.search(r"sm100\d*(10(fwd|bwd)|15bwd_wide)_kernel", name):
            found[name] = (int(registers), int(spilled))
    return found


def functions(listing):
    """{mangled name: [(label or None, opcode, operands)]}"""
    found, body = {}, None
    for line in listing.splitlines():
        section = re.match(r"\.text\.(\w+):", line)
        label = re.match(r"(\.L_x_\d+):", line)
        code = re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)\s*(.*?);", line)
        if section:
            body = found.setdefault(section.group(1), [])
        elif body is not None and label:
            body.append((label.group(1), "", ""))
        elif body is not None and code:
            body.append((None, code.group(1), code.group(2)))
    return found


def loops(body):
    """Stretches of code that end with a branch back to their start."""
    at = {label: i for i, (label, _, _) in enumerate(body) if label}
    for i, (_, opcode, operands) in enumerate(body):
        target = re.search(r"\.L_x_\d+", operands)
        if opcode.startswith("BRA") and target and at.get(target.group(0), i) < i:
            yield [op for _, op, _ in body[at[target.group(0)]:i + 1] if op]


def by_role(body):
    """What each role moves its registers to."""
    moves = [re.search(r"0x[0-9a-f]+", operands) for _, op, operands in body if "USETMAXREG" in op]
    return "/".join(str(int(m.group(0), 16)) for m in moves if m)


def pipe_of(opcode):
    return next(name for name, prefixes in PIPES if opcode.startswith(prefixes))


def counts(code):
    result = dict.fromkeys(NAMES, 0)
    for opcode in code:
        result[pipe_of(opcode)] += 1
    return result


def smallest(body, needs):
    """The shortest loop with at least so many of each opcode."""
    fits = [code for code in loops(body)
            if all(sum(op.startswith(p) for op in code) >= n for p, n in needs.items())]
    return min(fits, key=len) if fits else []


def config(name):
    args = re.search(r"(fwd|bwd|bwd_wide)_configI\w*?(bf16|fp16)E?(?:S\w*_)?((?:L[ib]\d+E)+)", name)
    values = [int(v) for v in re.findall(r"L[ib](\d+)E", args.group(3))]
    return args.group(1), args.group(2), values


def forward_row(name, body, registers, spilled):
    _, _, (d, dv, halves, capped) = config(name)
    code = smallest(body, {"LDTM": 4, "STTM": 4, "MUFU.EX2": 64})
    c = counts(code)
    # A softmax warp has 32 rows of one half; per half and key block, so that halves add up.
    busy = {
        "products": 2 * 128 * 128 * (d + dv) // MMA_FLOP,
        "MUFU": c["MUFU"] * MUFU_CYCLES,
        "ALU": c["ALU"] * ALU_CYCLES,
        "issue": len(code),
        "shared memory": (2 * 128 * d * 2 + 128 * dv * 2) // SMEM_BYTES,
    }
    label = f"fwd {d}/{dv}" + (" softcap" if capped else "")
    return [label, f"{registers}: {by_role(body)}", spilled, halves * (128 + dv)] + \
        [c[n] for n in NAMES if n != "MMA"] + bound(busy)


def backward_row(name, body, registers, spilled):
    _, _, (d, dv, capped, ordered) = config(name)
    chunk = 16 if capped else 32
    code = smallest(body, {"LDTM": 2 * 64 // chunk, "STTM": 2 * 64 // chunk, "MUFU.EX2": 64})
    c = counts(code)
    # Eight compute warps, two to a scheduler, have half a block each.
    busy = {
        "products": 2 * 128 * 128 * (3 * d + 2 * dv) // MMA_FLOP,
        "MUFU": 2 * c["MUFU"] * MUFU_CYCLES,
        "ALU": 2 * c["ALU"] * ALU_CYCLES,
        "issue": 2 * len(code),
        # Operands of S, dP, dV, dK and dQ once each; dS written; sums of dQ written and read.
        "shared memory": (2048 * d + 768 * dv + 4 * 128 * 128) // SMEM_BYTES,
    }
    columns = 256 + dv + d + (0 if 256 + dv + 2 * d > 512 else d)
    label = f"bwd {d}/{dv}" + (" softcap" if capped else "") + (" det." if ordered else "")
    return [label, f"{registers}: {by_role(body)}", spilled, columns] + \
        [c[n] for n in NAMES if n != "MMA"] + bound(busy)


def wide_row(name, body, registers, spilled):
    _, _, (d, dv, capped, ordered) = config(name)
    chunk = 16 if capped else 32
    code = smallest(body, {"LDTM": 2 * 32 // chunk, "MUFU.EX2": 32, "STS": 8})
    c = counts(code)
    # Eight compute warps, two to a scheduler, have an eighth of a CTA's half each.
    busy = {
        "products": 128 * 128 * (3 * d + 2 * dv) // MMA_FLOP,
        "MUFU": 2 * c["MUFU"] * MUFU_CYCLES,
        "ALU": 2 * c["ALU"] * ALU_CYCLES,
        "issue": 2 * len(code),
        # Operands of S, dP, dV, dK and dQ; P, dS and its share once more written, the other CTA's
        # read and written; sums of dQ written and read.
        "shared memory": 4 * d + 3 * dv + 3 * 128 + 448 + 4 * d,
    }
    label = f"bwd {d}/{dv}" + (" softcap" if capped else "") + (" det." if ordered else "")
    return [label, f"{registers}: {by_role(body)}", spilled, 128 + dv // 2 + d] + \
        [c[n] for n in NAMES if n != "MMA"] + bound(busy)


def bound(busy):
    unit = max(busy, key=busy.get)
    return [" / ".join(str(v) for v in busy.values()), unit,
            f"{100 * busy['products'] // busy[unit]} %"]


def report(folder):
    head = ["variant", "registers", "spilled", "columns"] + \
        [n for n in NAMES if n != "MMA"] + ["cycles", "bound", "of peak"]
    lines = [HEAD, "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for file in FILES:
        log, listing = compiled(folder, file)
        bodies = functions(listing)
        for name, (registers, spilled) in sorted(variants(log).items()):
            kind, dtype, _ = config(name)
            if dtype == "bf16":
                row = {"fwd": forward_row, "bwd": backward_row, "bwd_wide": wide_row}[kind]
                cells = row(name, bodies[name], registers, spilled)
                lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main():
    if not shutil.which("nvcc") or not shutil.which("nvdisasm"):
        print("no nvcc or no nvdisasm in PATH", file=sys.stderr)
        return 77
    check = sys.argv[1:2] == ["--check"]
    folders = sys.argv[2 if check else 1:]
    text = report(folders[0] if folders else tempfile.mkdtemp())
    if not check:
        print(text, end="")
        return 0
    with open(f"{HERE}/report.md") as file:
        same = file.read() == text
    print("report.md is up to date" if same else "report.md is old: run report.py")
    return 0 if same else 1


sys.exit(main())
