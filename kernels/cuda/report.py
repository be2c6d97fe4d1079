#!/usr/bin/env python3
"""
report.py [--check] sm90|sm100 [DIR]: what the machine code of each variant holds.

Compiles the instances of the arch (sm100: for 100f) into DIR (default: a temporary one; what is
there already is taken), and reads ptxas' log, nvdisasm's listing and, through the host's compiler
and kernels/sim, the plan structs. Wants nvcc, nvdisasm, c++ and c++filt in PATH; 77 without. Run it
into kernels/ARCH/report.md after a change of a kernel; --check says whether that was done.
"""
import glob
import json
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

# Cycles that a warp's instruction takes of its scheduler's quarter of an SM.
MUFU_CYCLES, ALU_CYCLES = 8, 2
SMEM_BYTES = 128  # a cycle of an SM

# How many products of a kernel have d as a side that is not 128, and how many dv.
PRODUCTS = {"fwd": (1, 1), "bwd": (3, 2), "bwd_pair": (3, 2), "bwd_wide": (3, 2),
            "roles": (2, 2), "halves": (2, 2), "queries": (2, 1)}
# A backward in two launches: what each of them makes.
PARTS = {"roles": ": dK, dV", "halves": ": dK, dV", "queries": ": dQ"}


def run(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options)


def instances(arch):
    files = glob.glob(f"{ROOT}/kernels/{arch.NAME}/*.cu")
    return sorted((os.path.basename(f)[:-3] for f in files),
                  key=lambda n: (n[:3] != "fwd", int((re.findall(r"\d+", n) or [999])[0]), n))


def compiled(folder, arch, name):
    """What ptxas said, and the listing."""
    cubin, log = f"{folder}/{arch.NAME}_{name}.cubin", f"{folder}/{arch.NAME}_{name}.log"
    if not os.path.exists(cubin):
        out = run("nvcc", "-std=c++17", "-O3", f"-I{ROOT}/kernels", f"-I{ROOT}", "-gencode",
                  f"arch=compute_{arch.CODE},code=sm_{arch.CODE}", "-Xptxas=-v", "-cubin", "-o",
                  cubin, f"{ROOT}/kernels/{arch.NAME}/{name}.cu")
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
        self.kernel = match.group(2)
        self.config = f"{match.group(1)}::{match.group(3)}_config<{match.group(4)}>"
        args = [a.strip() for a in match.group(4).split(",")]
        self.dtype, flags = args[0], [a == "true" for a in args if a in ("true", "false")]
        self.numbers = [int(a) for a in args if a.isdigit()]
        self.forward, self.pair = self.kernel == "fwd", self.kernel == "bwd_pair"
        self.wide = self.kernel == "bwd_wide"
        self.d, self.dv = (128, 128) if self.pair else self.numbers[:2]
        # short: takes what short sequences share in turns
        self.capped, self.ordered, self.short = (flags + [False, False])[:3]
        # sm90's instances of three consumers at head dims where others have two
        self.tall = self.config.startswith("sm90::fwd") and self.d >= 128 and self.numbers[3] == 3

    @staticmethod
    def is_main(mangled):
        return re.search(rf"sm\d+({'|'.join(PRODUCTS)})_kernelI", mangled)

    def label(self):
        """Of the pass; PARTS says which launch of it."""
        kind = "fwd" if self.forward else "pair" if self.pair else "bwd"
        return f"{kind} {self.d}/{self.dv}" + (" tall" if self.tall else "") + \
            (" softcap" if self.capped else "") + (" det." if self.ordered else "") + \
            (" short" if self.short else "")

    def products(self, kernel=None):
        """FLOP of 128 queries x 128 keys."""
        by_d, by_dv = PRODUCTS[kernel or self.kernel]
        return 2 * 128 * 128 * (by_d * self.d + by_dv * self.dv)


def variants(log):
    pattern = r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
    found = [Variant(name, registers, spilled)
             for name, spilled, registers in re.findall(pattern, log, re.S)
             if Variant.is_main(name)]
    return sorted((v for v in found if "bf16" in v.dtype),
                  key=lambda v: (v.label(), PARTS.get(v.kernel)))


def plans(folder, arch, all_variants):
    """{config: numbers of its plan structs, as the host's compiler says}"""
    result = {}
    for forward in (True, False):
        lines = ["#include <stdio.h>"] + \
            [f'#include "{arch.NAME}/{header}"' for header in arch.HEADERS[forward]] + \
            ["int main() {"]
        for v in (v for v in all_variants if v.forward == forward):
            numbers = arch.plan(v)
            lines.append(f'printf("%s{";%u" * len(numbers)}\\n", "{v.config}", '
                         f'{", ".join(numbers)});')
        program = f"{folder}/{arch.NAME}_{'fwd' if forward else 'bwd'}"
        with open(program + ".cpp", "w") as file:
            file.write("\n".join(lines) + "\n}\n")
        run("c++", "-std=c++17", "-O1", "-w", f"-I{ROOT}/kernels/sim", f"-I{ROOT}/kernels",
            f"-I{ROOT}", program + ".cpp", "-o", program)
        for line in run(program).stdout.splitlines():
            config, *numbers = line.split(";")
            result[config] = [int(n) for n in numbers]
    return result


def functions(listing):
    """{mangled name: [(label, "", "") or ("", predicate, instruction)]}"""
    found, body = {}, None
    for line in listing.splitlines():
        section = re.match(r"\.text\.(\w+):", line)
        label = re.match(r"(\.L_x_\d+):", line)
        code = re.match(r"\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.]*.*?)\s*;", line)
        if section:
            body = found.setdefault(section.group(1), [])
        elif body is not None and label:
            body.append((label.group(1), "", ""))
        elif body is not None and code:
            body.append(("", code.group(1), code.group(2)))
    return found


def usual(stretch):
    """Its instructions, without those of blocks that outgrew the maxima, which a branch skips."""
    at = {label: i for i, (label, _, _) in enumerate(stretch) if label}
    skipped = set()
    for i, (_, predicate, code) in enumerate(stretch):
        target = re.match(r"BRA.*(\.L_x_\d+)", code)
        over = range(i + 1, at.get(target.group(1), 0) if predicate and target else 0)
        if any(stretch[j][2].startswith("HMMA") for j in over):  # their scores once more
            skipped.update(over)
    return [code for i, (_, _, code) in enumerate(stretch) if code and i not in skipped]


def loops(body):
    """Stretches of instructions that end with a branch back to their start. One over an EXIT is no
    loop: that branch leads back from code that was put behind the end, out of the way."""
    at = {label: i for i, (label, _, _) in enumerate(body) if label}
    for i, (_, _, code) in enumerate(body):
        target = re.match(r"BRA.*(\.L_x_\d+)", code)
        stretch = body[at[target.group(1)]:i + 1] if target else []
        if stretch and not any(c == "EXIT" and not predicate for _, predicate, c in stretch):
            yield usual(stretch)


def count(code, prefix):
    return sum(c.startswith(prefix) for c in code)


def smallest(all_loops, needs, without=()):
    """The shortest loop with at least so many of each opcode and none of others."""
    return min((code for code in all_loops
                if all(count(code, p) >= n for p, n in needs.items()) and
                not any(count(code, p) for p in without)), key=len)


def by_role(body):
    """What roles move their registers to."""
    moves = [re.search(r"0x[0-9a-f]+", c) for _, _, c in body if c.startswith("USETMAXREG")]
    return "/".join(str(int(m.group(0), 16)) for m in moves if m)


def counts(code):
    """{pipe: instructions}"""
    result = dict.fromkeys([name for name, _ in PIPES], 0)
    for c in code:
        result[next(name for name, prefixes in PIPES if c.startswith(prefixes))] += 1
    return result


class Hopper:
    """What the report of sm90 has of its own."""

    NAME, CODE = "sm90", "90a"
    MMA, PEAK = 4096, 989  # FLOP a cycle of an SM, bf16; TFLOP/s
    HEADERS = {True: ["fwd.cuh"],
               False: ["bwd.cuh", "bwd_roles.cuh", "bwd_halves.cuh", "bwd_queries.cuh"]}
    SMEM = {"roles": "keys", "halves": "keys"}  # whose plan struct
    SHOWN = ["MMA", "MUFU", "FMA", "LSU", "control", "uniform", "ALU"]
    PLAN, BESIDE = ["shared memory", "scores"], ["measured", "FA3"]
    RESULTS = "tests/bench/results/2026-11-29-h200.json"
    WITH_TALL = ["fwd 128/128", "fwd 192/128"]  # others serve what has no mask
    HEAD = """# What the machine code of the sm90 kernels holds

Written by kernels/cuda/report.py, bf16 under 90a; nothing here is measured but the last columns.

Registers: at launch, then what roles move to. Bytes of shared memory: from the plan structs.
Instructions are those of a consumer warp in one pass of the loop that makes P, for as many scores
of its warpgroup as the column says. Where the two consumers do different things: those of one + the
other. Code that most passes skip (in the backward, masks) is in it, but for that of the forward for
blocks that outgrew the maxima; waits count once. Other roles: instructions of a pass of their loop,
a thread each.

Cycles: of an SM for 128 queries x 128 keys: products (4096 FLOP a cycle), MUFU (16 lanes a cycle),
ALU (64), issue (a warp's instruction a cycle of each scheduler: the consumers'), shared memory (128
bytes a cycle: operands as the wgmmas name them, loads, and what goes from role to role, P, dS and
shares of dQ; not the statistics that threads read). The bound is the largest, as if all else were
hidden behind it; beside it the tensor cores' share of their peak, in TFLOP/s of 989 (1830 MHz) as
well. Of a backward in two launches each counts its own products, the sum of both the five that are
asked for. Last, for 4 x 8192 tokens without mask, what {results} has:
TFLOP/s of an H200, and of FlashAttention 3 on such a card. The power cap holds both under the peak:
cuBLAS multiplied 8192^3 at {gemm:.0f}.
"""

    def __init__(self):
        with open(f"{ROOT}/{self.RESULTS}") as file:
            self.results = json.load(file)

    def head(self):
        return self.HEAD.format(results=self.RESULTS, gemm=self.results["gemm8192_tflops"])

    def plan(self, v):
        return [f"sm90::{self.SMEM.get(v.kernel, v.kernel)}_smem<{v.config}>::BYTES"]

    def roles(self, v, all_loops):
        """([loop of each kind of consumer], {other role: its loop})"""
        consumers = [smallest(all_loops, {"HGMMA": 8, "MUFU.EX2": 8})]
        if v.kernel == "roles":  # what makes dS of another's P
            consumers += [smallest(all_loops, {"HGMMA": 8}, ("MUFU.EX2",))]
        others = {"loader": smallest(all_loops, {"UTMALDG": 1, "SYNCS": 2}, ("HGMMA",))}
        if v.kernel == "bwd":
            others["writer"] = smallest(all_loops, {"UBLKRED": 1}, ("HGMMA",))
        return consumers, others

    def passes(self, v, consumers):
        """Of a warpgroup, hence of a scheduler, for 128 x 128."""
        return v.products() / sum(2 * 64 * n * 16 for code in consumers
                                  for n, _ in self.multiplied(code))

    @staticmethod
    def multiplied(code):
        """(n, whether A comes from shared memory) of each product of 64 x n x 16"""
        found = (re.match(r"HGMMA\.64x(\d+)x16\S* \w+, (gdesc)?", c) for c in code)
        return [(int(m.group(1)), m.group(2) is not None) for m in found if m]

    def extra(self, v, consumers):
        scores = round(128 * 128 / 64 / self.passes(v, consumers))
        exponentials = count(consumers[0], "MUFU.EX2")
        assert 0 <= 2 * exponentials - scores <= 4, "one for each, and one for each row's maximum"
        return [f"64 x {scores}"]

    def smem_bytes(self, v, consumers):
        """Of 128 x 128: operands, loads past the rows of a tile that stay, and what goes from role
        to role: dS of bwd to both consumers, whose operand it is then, and shares of dQ out and in;
        P of roles out and in."""
        operands = sum(n * 16 * 2 + (64 * 16 * 2 if a else 0) for code in consumers
                       for n, a in self.multiplied(code))
        rows = {"fwd": 64 * v.numbers[-1], "roles": 64}.get(v.kernel, 128)
        loads = 128 * 128 / rows * (v.d + v.dv) * 2
        scores = 128 * 128 * 2
        passed = {"bwd": scores + 2 * 128 * v.d * 4, "roles": 2 * scores,
                  "halves": 2 * scores if v.capped else 0}  # to the same thread, later
        return self.passes(v, consumers) * operands + loads + passed.get(v.kernel, 0)

    def busy(self, v, consumers, _roles):
        """Cycles of each unit for 128 x 128."""
        passes = self.passes(v, consumers)
        code = sum(consumers, [])
        c = counts(code)
        return {"products": v.products() // self.MMA,
                "MUFU": round(passes * c["MUFU"] * MUFU_CYCLES),
                "ALU": round(passes * c["ALU"] * ALU_CYCLES), "issue": round(passes * len(code)),
                "shared memory": round(self.smem_bytes(v, consumers) / SMEM_BYTES)}

    def beside(self, label):
        if label in self.WITH_TALL:
            return ["", ""]
        label = label.replace(" tall", "")
        for r in self.results["rows"]:
            kind, *det, mask = r["pass"].split()
            if r["batch"] == "4x8192" and mask == "full" and \
                    label == f"{kind} {r['d']}/{r['dv']}" + (" det." if det else ""):
                return [round(r["tflops"]), r["fa3"] or ""]
        return ["", ""]


class Blackwell:
    """What the report of sm100 has of its own."""

    NAME, CODE = "sm100", "100f"
    MMA, PEAK = 8192, 2250  # as above
    HEADERS = {True: ["fwd.cuh"], False: ["bwd.cuh", "bwd_pair.cuh", "bwd_wide.cuh"]}
    SHOWN = [name for name, _ in PIPES if name != "MMA"]
    PLAN, BESIDE = ["shared memory", "columns"], ["published"]
    # FlashAttention 4's TFLOP/s on B200, varlen but for pairs and 192/128.
    PUBLISHED = {"fwd 128/128": "1481", "bwd 128/128": "1201", "bwd 128/128 det.": "913",
                 "pair 128/128": "1360", "pair 128/128 det.": "1167", "fwd 192/128": "1556",
                 "bwd 64/64": "680 to 830", "bwd 192/128": "1073"}
    HEAD = """# What the machine code of the sm100 kernels holds

Written by kernels/cuda/report.py, bf16 under 100f; nothing here is measured.

Registers: at launch, then what roles move to. Bytes of shared memory and columns of tensor memory:
from the plan structs.
Instructions are those of a warp in one pass of the loop that makes P: forward, a softmax warp and
an unmasked block of 128 keys; backward, a compute warp and a step (32 keys x 64 queries; of pairs
with d over 128, 32 x 32). Code that most passes skip (masks) is in it, waits count once. Other
roles: instructions of a pass of their loop; that of the correction shrinks O, which most skip.

Cycles: of an SM (of each of a pair) for 128 queries x 128 keys: products (8192 FLOP a cycle), MUFU
(16 lanes a cycle), ALU (64), issue (a warp's instruction a cycle of each scheduler: P's loop, dQ's
and the multiplier's), shared memory (128 bytes a cycle). The bound is the largest, as if all else
were hidden behind it; beside it the tensor cores' share of their peak, in TFLOP/s of 2250 as well,
and what FlashAttention 4 publishes (4 x 8192 tokens, full).
"""

    def head(self):
        return self.HEAD

    def plan(self, v):
        kind, columns = ("fwd", "tensor") if v.forward else ("bwd", "columns")
        return [f"sm100::{kind}_smem<{v.config}>::BYTES",
                f"sm100::{kind}_{columns}<{v.config}>::USED"]

    def roles(self, v, all_loops):
        """([loop that makes P], {other role: its loop})"""
        chunk = 16 if v.capped else 32
        per_row = 4 if v.forward else 2 * 64 // chunk
        if v.wide:  # 32 keys x 32 queries, pairs to shared memory
            needs = {"LDTM": 2 * 32 // chunk, "MUFU.EX2": 32, "STS": 8}
        else:
            needs = {"LDTM": per_row, "STTM": per_row, "MUFU.EX2": 64}
        main = smallest(all_loops, needs, ("UTCHMMA",))
        if v.forward:
            first = {"correction": smallest(all_loops, {"LDTM": 1, "STTM": 1},
                                            ("MUFU.EX2", "UTCHMMA"))}
        else:
            first = {"dQ": smallest(all_loops, {"LDTM": 1, "UBLKRED": 1}, ("MUFU.EX2", "UTCHMMA"))}
        return [main], {**first, "multiplier": smallest(all_loops, {"UTCHMMA": 1}),
                        "loader": smallest(all_loops, {"UTMALDG": 1, "SYNCS": 2}, ("UTCHMMA",))}

    def extra(self, _v, _loops):
        return []

    @staticmethod
    def smem_cycles(v):
        """Operands read, fragments and sums written, and read by bulk copies."""
        d, dv = v.d, v.dv
        if v.forward:
            return (2 * 128 * d * 2 + 128 * dv * 2) // SMEM_BYTES
        if v.pair:  # halves of B, dS passed on; see the kernel
            return 2688
        if v.wide:  # as counted above the kernel
            return 8 * d + 3 * dv + 3 * 128 + 448
        return (2048 * d + 768 * dv + 4 * 128 * 128) // SMEM_BYTES

    def busy(self, v, loops_of_p, roles):
        """Cycles of each unit for 128 x 128."""
        main, = loops_of_p
        c = counts(main)
        passes = 1 if v.forward else 2  # a warp a scheduler; two
        steps = {name: len(code) for name, code in roles.items()}
        if v.forward:  # the multiplier's loop may go through both halves
            steps["multiplier"] //= max(1, count(roles["multiplier"], "UTCHMMA") * 16 //
                                        (v.d + 128))
        products = v.products() // self.MMA
        return {"products": products // 2 if v.wide else products,  # of each CTA of a pair
                "MUFU": round(passes * c["MUFU"] * MUFU_CYCLES),
                "ALU": round(passes * c["ALU"] * ALU_CYCLES),
                "issue": round(passes * len(main)) + steps.get("dQ", 0) + steps["multiplier"],
                "shared memory": self.smem_cycles(v)}

    def beside(self, label):
        return [self.PUBLISHED.get(label, "")]


ARCHS = {arch.NAME: arch for arch in (Hopper, Blackwell)}


def verdict(arch, launches, useful):
    """Cells: cycles, bound, of peak. launches: what each keeps busy; useful: cycles of the products
    that are asked for."""
    units = [max(busy, key=busy.get) for busy in launches]
    share = useful / sum(max(busy.values()) for busy in launches)
    total = [sum(busy[unit] for busy in launches) for unit in launches[0]]
    return [" / ".join(map(str, total)), ", ".join(units),
            f"{100 * share:.0f} %: {share * arch.PEAK:.0f}"]


def row(arch, v, body, plan):
    """(cells, what the launch keeps busy)"""
    main, roles = arch.roles(v, list(loops(body)))
    busy = arch.busy(v, main, roles)
    pipes = [counts(code) for code in main]
    label = v.label() + PARTS.get(v.kernel, "")
    return [label, f"{v.registers}: {by_role(body)}", v.spilled, *plan, *arch.extra(v, main),
            *(" + ".join(str(c[name]) for c in pipes) for name in arch.SHOWN),
            ", ".join(f"{name} {len(code)}" for name, code in roles.items()),
            *verdict(arch, [busy], busy["products"]), *arch.beside(label)], busy


def report(arch, folder):
    names = ["variant", "registers", "spilled", *arch.PLAN, *arch.SHOWN, "other roles", "cycles",
             "bound", "of peak: TFLOP/s", *arch.BESIDE]
    found = []
    for file in instances(arch):
        log, listing = compiled(folder, arch, file)
        bodies = functions(listing)
        found += [(v, bodies[v.mangled]) for v in variants(log)]
    plan = plans(folder, arch, [v for v, _ in found])
    table, launches = [], []
    for v, body in found:
        cells, busy = row(arch, v, body, plan[v.config])
        table.append(cells)
        launches = launches + [busy] if v.kernel in PARTS else []
        if len(launches) == 2:
            useful = v.products("bwd") / arch.MMA
            end = verdict(arch, launches, useful) + arch.beside(v.label())
            table.append([v.label(), *[""] * (len(names) - 1 - len(end)), *end])
            launches = []
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in [names] + table]
    return "\n".join([arch.head(), lines[0], "|" + "---|" * len(names), *lines[1:], ""])


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
    text = report(ARCHS[words[0]](), words[1] if len(words) > 1 else tempfile.mkdtemp())
    if not check:
        print(text, end="")
        return 0
    with open(f"{ROOT}/kernels/{words[0]}/report.md") as file:
        same = file.read() == text
    print("report.md is up to date" if same else "report.md is old: run report.py")
    return 0 if same else 1


sys.exit(main())
