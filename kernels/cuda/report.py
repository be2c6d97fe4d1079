#!/usr/bin/env python3
"""
report.py [--check] sm90|sm100 [DIR]: what the machine code of each variant holds.

Of sm90 not the backward past d 128, which is two launches of other kernels. Compiles the instances
of the arch (sm100: for 100f) into DIR (default: a temporary one; what is
there already is taken), and reads ptxas' log, nvdisasm's listing and, through the host's compiler
and kernels/sim, the plan structs. Wants nvcc, nvdisasm, c++ and c++filt in PATH; 77 without. Run it
into kernels/ARCH/report.md after a change of a kernel; --check says whether that was done.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Opcode prefixes by pipe, the first that fits; what is left is the ALU's.
PIPES = [
    ("MMA", ("UTCHMMA", "HGMMA")),
    ("TMEM", ("LDTM", "STTM")),
    ("copy", ("UTMA", "UBLK", "UTCBAR")),
    ("MUFU", ("MUFU",)),
    ("FMA", ("FFMA", "FMUL", "FADD", "IMAD")),
    ("LSU", ("LDS", "STS", "LDG", "STG", "LD.", "ST.", "LDL", "STL", "ATOM", "RED", "SHFL")),
    ("control", ("BRA", "SYNCS", "BAR", "WARPSYNC", "NOP", "ELECT", "DEPBAR", "FENCE", "MEMBAR",
                 "BSSY", "BSYNC", "NANOSLEEP", "VOTE", "CCTL", "ERRBAR", "EXIT", "CALL", "RET",
                 "WARPGROUP", "R2UR")),
    ("uniform", ("U", "S2U", "LDCU", "LDC")),
    ("ALU", ("",)),
]
SHOWN = [name for name, _ in PIPES if name != "MMA"]

# Cycles that a warp's instruction takes of its scheduler's quarter of an SM.
MUFU_CYCLES, ALU_CYCLES = 8, 2
SMEM_BYTES = 128  # a cycle of an SM

# FlashAttention's published TFLOP/s on 4 x 8192 tokens, full (sm90: FA3, varlen, H200; sm100: FA4
# on B200, varlen but for pairs and 192/128).
PUBLISHED = {
    "sm90": {"fwd 128/128": "635", "bwd 128/128": "589", "bwd 128/128 det.": "542",
             "fwd 64/64": "576", "bwd 64/64": "530", "bwd 64/64 det.": "444", "fwd 256/256": "746",
             "bwd 256/256": "480"},
    "sm100": {"fwd 128/128": "1481", "bwd 128/128": "1201", "bwd 128/128 det.": "913",
              "pair 128/128": "1360", "pair 128/128 det.": "1167", "fwd 192/128": "1556",
              "bwd 64/64": "680 to 830", "bwd 192/128": "1073"},
}
# MMA: FLOP a cycle of an SM, bf16. peak: TFLOP/s. main: what the loop that makes P has of each.
ARCHS = {
    "sm90": {"code": "90a", "mma": 4096, "peak": 989},
    "sm100": {"code": "100f", "mma": 8192, "peak": 2250},
}

HEAD = """# What the machine code of the {arch} kernels holds

Written by kernels/cuda/report.py, bf16 under {code}; nothing here is measured.

Registers: at launch, then what roles move to. Bytes of shared memory{columns}: from the plan
structs.
Instructions are those of a warp in one pass of the loop that makes P: {main}.
Code that most passes skip (masks) is in it, waits count once. Other roles: instructions of a pass
of their loop{correction}.

Cycles: of an SM (of each of a pair) for 128 queries x 128 keys: products ({mma} FLOP a cycle), MUFU
(16 lanes a cycle), ALU (64), issue (a warp's instruction a cycle of each scheduler:
{issue}), shared memory (128 bytes a cycle{smem}). The bound is the largest, as
if all else were hidden behind it; beside it the tensor cores' share of their peak, in TFLOP/s of
{peak} as well, and what FlashAttention {fa} publishes (4 x 8192 tokens, full).
"""
MAIN = {"sm90": "a consumer warp and a\nblock of keys (forward) or a step of queries (backward)",
        "sm100": "forward, a softmax warp and\nan unmasked block of 128 keys; backward, a compute "
                 "warp and a step (32 keys x 64 queries; of pairs\n"
                 "with d over 128, 32 x 32)"}


def run(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options)


def instances(arch):
    files = glob.glob(f"{ROOT}/kernels/{arch}/*.cu")
    return sorted((os.path.basename(f)[:-3] for f in files),
                  key=lambda n: (n[:3] != "fwd", int((re.findall(r"\d+", n) or [999])[0]), n))


def compiled(folder, arch, name):
    cubin, log = f"{folder}/{arch}_{name}.cubin", f"{folder}/{arch}_{name}.log"
    if not os.path.exists(cubin):
        code = ARCHS[arch]["code"]
        out = run("nvcc", "-std=c++17", "-O3", f"-I{ROOT}/kernels", f"-I{ROOT}", "-gencode",
                  f"arch=compute_{code},code=sm_{code}", "-Xptxas=-v", "-cubin", "-o", cubin,
                  f"{ROOT}/kernels/{arch}/{name}.cu")
        with open(log, "w") as file:
            file.write(out.stdout + out.stderr)
    with open(log) as file:
        return file.read(), run("nvdisasm", "-c", cubin).stdout


class Variant:
    """A main kernel: its name as the linker and as the source has it, and ptxas' figures."""

    def __init__(self, mangled, registers, spilled):
        self.mangled, self.registers, self.spilled = mangled, int(registers), int(spilled)
        text = run("c++filt", mangled).stdout
        match = re.search(r"(sm\d+)::(\w+)_kernel<sm\d+::(\w+)_config<(.*)> ?>\(", text)
        self.arch, self.kernel = match.group(1), match.group(2)
        self.config = f"{self.arch}::{match.group(3)}_config<{match.group(4)}>"
        args = [a.strip() for a in match.group(4).split(",")]
        self.dtype, flags = args[0], [a == "true" for a in args if a in ("true", "false")]
        numbers = [int(a) for a in args if a.isdigit()]
        self.forward, self.pair = self.kernel == "fwd", self.kernel == "bwd_pair"
        self.wide = self.kernel == "bwd_wide"
        self.d, self.dv = (128, 128) if self.pair else numbers[:2]
        self.rest = [] if self.pair else numbers[2:]
        self.capped, self.ordered = flags[0], len(flags) > 1 and flags[1]

    @staticmethod
    def is_main(mangled):
        return re.search(r"sm\d+(fwd|bwd|bwd_pair|bwd_wide)_kernelI", mangled)

    def label(self):
        kind = "fwd" if self.forward else "pair" if self.pair else "bwd"
        return f"{kind} {self.d}/{self.dv}" + (" softcap" if self.capped else "") + \
            (" det." if self.ordered else "")


def variants(log):
    pattern = r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
    found = [Variant(name, registers, spilled)
             for name, spilled, registers in re.findall(pattern, log, re.S)
             if Variant.is_main(name)]
    return [v for v in found if "bf16" in v.dtype]


HEADERS = {("sm90", True): ["fwd.cuh"], ("sm90", False): ["bwd.cuh"],
           ("sm100", True): ["fwd.cuh"],
           ("sm100", False): ["bwd.cuh", "bwd_pair.cuh", "bwd_wide.cuh"]}


def plans(folder, arch, all_variants):
    """{config: (bytes of shared memory, columns of tensor memory)}, as the host's compiler says."""
    result = {}
    for forward in (True, False):
        kind, columns = "fwd" if forward else "bwd", "tensor" if forward else "columns"
        lines = ["#include <stdio.h>"] + \
            [f'#include "{arch}/{header}"' for header in HEADERS[arch, forward]] + ["int main() {"]
        for v in (v for v in all_variants if v.forward == forward):
            used = "0u" if arch == "sm90" else f"{arch}::{kind}_{columns}<{v.config}>::USED"
            lines.append(f'printf("%s;%u;%u\\n", "{v.config}", '
                         f"{arch}::{kind}_smem<{v.config}>::BYTES, {used});")
        program = f"{folder}/{arch}_{kind}"
        with open(program + ".cpp", "w") as file:
            file.write("\n".join(lines) + "\n}\n")
        run("c++", "-std=c++17", "-O1", "-w", f"-I{ROOT}/kernels/sim", f"-I{ROOT}/kernels",
            f"-I{ROOT}", program + ".cpp", "-o", program)
        for line in run(program).stdout.splitlines():
            config, smem, columns_used = line.split(";")
            result[config] = (int(smem), int(columns_used))
    return result


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


def count(code, prefix):
    return sum(op.startswith(prefix) for op in code)


def smallest(all_loops, needs, without=()):
    """The shortest loop with at least so many of each opcode and none of others; [] for none."""
    fits = [code for code in all_loops
            if all(count(code, p) >= n for p, n in needs.items()) and
            not any(count(code, p) for p in without)]
    return min(fits, key=len) if fits else []


def by_role(body):
    """What roles move their registers to."""
    moves = [re.search(r"0x[0-9a-f]+", operands) for _, op, operands in body if "USETMAXREG" in op]
    return "/".join(str(int(m.group(0), 16)) for m in moves if m)


def pipe_of(opcode):
    return next(name for name, prefixes in PIPES if opcode.startswith(prefixes))


def counts(code):
    result = dict.fromkeys([name for name, _ in PIPES], 0)
    for opcode in code:
        result[pipe_of(opcode)] += 1
    return result


def roles_of(v, all_loops):
    """(loop that makes P, {other role: its loop}, instructions a scheduler issues for both)"""
    loader = smallest(all_loops, {"UTMALDG": 1, "SYNCS": 2}, ("UTCHMMA", "HGMMA"))
    if v.arch == "sm90":
        main = smallest(all_loops, {"HGMMA": 8, "MUFU.EX2": 8})
        writer = smallest(all_loops, {"UBLKRED": 1}, ("HGMMA",))
        return main, {"loader": loader} if v.forward else {"writer": writer, "loader": loader}
    chunk = 16 if v.capped else 32
    per_row = 4 if v.forward else 2 * 64 // chunk
    main = smallest(all_loops, {"LDTM": per_row, "STTM": per_row, "MUFU.EX2": 64}, ("UTCHMMA",))
    if v.wide: # 32 keys x 32 queries, pairs to shared memory
        main = smallest(all_loops, {"LDTM": 2 * 32 // chunk, "MUFU.EX2": 32, "STS": 8},
                        ("UTCHMMA",))
    multiplier = smallest(all_loops, {"UTCHMMA": 1})
    if v.forward:
        correction = smallest(all_loops, {"LDTM": 1, "STTM": 1}, ("MUFU.EX2", "UTCHMMA"))
        return main, {"correction": correction, "multiplier": multiplier, "loader": loader}
    reducer = smallest(all_loops, {"LDTM": 1, "UBLKRED": 1}, ("MUFU.EX2", "UTCHMMA"))
    return main, {"dQ": reducer, "multiplier": multiplier, "loader": loader}


def smem_cycles(v):
    """Operands read, fragments and sums written, and read by bulk copies; None: not counted."""
    d, dv = v.d, v.dv
    if v.arch == "sm100" and v.forward:
        return (2 * 128 * d * 2 + 128 * dv * 2) // SMEM_BYTES
    if v.pair: # halves of B, dS passed on; see the kernel
        return 2688
    if v.wide: # as counted above the kernel
        return 8 * d + 3 * dv + 3 * 128 + 448
    if v.arch == "sm100":
        return (2048 * d + 768 * dv + 4 * 128 * 128) // SMEM_BYTES
    if v.forward: # Q once, K and V by each consumer of 64 rows
        return (128 * d * 2 + 2 * 128 * (d + dv) * 2) // SMEM_BYTES
    return None


def busy_of(v, main, roles):
    """Cycles of each unit for 128 x 128."""
    c = counts(main)
    if v.arch == "sm100": # forward: a warp a scheduler; backward: two
        passes = 1 if v.forward else 2
        steps = {name: len(code) for name, code in roles.items()}
        if v.forward and roles["multiplier"]: # its loop may go through both halves
            steps["multiplier"] //= max(1, count(roles["multiplier"], "UTCHMMA") * 16 //
                                        (v.d + 128))
        others = steps.get("dQ", 0) + steps["multiplier"]
    else: # scores of a pass: one exponential for each, 64 rows by n
        passes = 128 * 128 / (32 * count(main, "MUFU.EX2")) / 4
        others = 0
    products = (2 if v.forward else 0) * 128 * 128 * (v.d + v.dv) + \
        (0 if v.forward else 2) * 128 * 128 * (3 * v.d + 2 * v.dv)
    busy = {"products": products // ARCHS[v.arch]["mma"],
            "MUFU": round(passes * c["MUFU"] * MUFU_CYCLES),
            "ALU": round(passes * c["ALU"] * ALU_CYCLES),
            "issue": round(passes * len(main)) + others}
    smem = smem_cycles(v)
    if v.wide: # of each CTA of a pair
        busy["products"] //= 2
    return busy if smem is None else {**busy, "shared memory": smem}


def row(v, body, plan):
    all_loops = list(loops(body))
    main, roles = roles_of(v, all_loops)
    busy = busy_of(v, main, roles)
    unit = max(busy, key=busy.get)
    share = busy["products"] / busy[unit]
    c = counts(main)
    smem, columns = plan
    return [v.label(), f"{v.registers}: {by_role(body)}", v.spilled, smem] + \
        ([columns] if v.arch == "sm100" else []) + [c[n] for n in SHOWN if n in shown(v.arch)] + \
        [", ".join(f"{name} {len(code)}" for name, code in roles.items() if code),
         " / ".join(str(x) for x in busy.values()), unit,
         f"{100 * share:.0f} %: {share * ARCHS[v.arch]['peak']:.0f}",
         PUBLISHED[v.arch].get(v.label(), "")]


def shown(arch):
    return [n for n in SHOWN if n != "TMEM" or arch == "sm100"]


def report(arch, folder):
    blackwell = arch == "sm100"
    head = ["variant", "registers", "spilled", "shared memory"] + \
        (["columns"] if blackwell else []) + shown(arch) + \
        ["other roles", "cycles", "bound", "of peak: TFLOP/s", "published"]
    text = HEAD.format(
        arch=arch, code=ARCHS[arch]["code"], mma=ARCHS[arch]["mma"], peak=ARCHS[arch]["peak"],
        main=MAIN[arch], fa=4 if blackwell else 3,
        columns=" and columns of tensor memory" if blackwell else "",
        correction="; that of the correction shrinks O, which most skip" if blackwell else "",
        issue="P's loop, dQ's and the multiplier's" if blackwell else "the consumers'",
        smem="" if blackwell else "; forward")
    lines = [text, "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    found = []
    for file in instances(arch):
        log, listing = compiled(folder, arch, file)
        bodies = functions(listing)
        found += [(v, bodies[v.mangled]) for v in sorted(variants(log), key=lambda v: v.label())]
    plan = plans(folder, arch, [v for v, _ in found])
    for v, body in found:
        lines.append("| " + " | ".join(map(str, row(v, body, plan[v.config]))) + " |")
    return "\n".join(lines) + "\n"


def main():
    words = sys.argv[1:]
    check = words[:1] == ["--check"]
    words = words[check:]
    if not words or words[0] not in ARCHS:
        print(__doc__, file=sys.stderr)
        return 2
    for tool in ("nvcc", "nvdisasm", "c++", "c++filt"):
        if not shutil.which(tool):
            print(f"no {tool} in PATH", file=sys.stderr)
            return 77
    text = report(words[0], words[1] if len(words) > 1 else tempfile.mkdtemp())
    if not check:
        print(text, end="")
        return 0
    with open(f"{ROOT}/kernels/{words[0]}/report.md") as file:
        same = file.read() == text
    print("report.md is up to date" if same else "report.md is old: run report.py")
    return 0 if same else 1


sys.exit(main())
