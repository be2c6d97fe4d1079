#!/usr/bin/env python3
"""fasctl as its users run it, beside a live daemon: files in, files out, compared with attention
written out in plain Python; bad files and bad usage get a clear error and the right exit code.
usage: test_fasctl.py FASCTL EXAMPLE FASERVED SOCKET"""

import atexit
import json
import math
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

FASCTL, EXAMPLE, FASERVED, SOCKET = sys.argv[1:5]
ENVIRONMENT = dict(os.environ, FASERVE_URL="ipc://" + SOCKET)
LENGTHS = [5, 0, 3]
HQ, HKV, D = 4, 2, 8


def write(path, tensors):
    """tensors: name -> (dtype, shape, flat list)"""
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        part = struct.pack("<%d%s" % (len(values), "f" if dtype == "F32" else "i"), *values)
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def read(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(length)), file.read()
    tensors = {}
    for name, item in header.items():
        begin, end = item["data_offsets"]
        tensors[name] = (item["shape"], struct.unpack("<%df" % ((end - begin) // 4),
                                                      data[begin:end]))
    return tensors


def fasctl(*arguments):
    return subprocess.run([FASCTL, *arguments], env=ENVIRONMENT, text=True, capture_output=True,
                          timeout=120, check=False)


def expect(condition, *what):
    if not condition:
        print("FAILED:", *what)
        sys.exit(1)


def attention(q, k, v):
    """Causal, per document: rows of [head][d] -> o, lse."""
    o, lse, first = [], [[] for _ in range(HQ)], 0
    for length in LENGTHS:
        for i in range(first, first + length):
            row = []
            for h in range(HQ):
                g = h // (HQ // HKV)
                s = [sum(a * b for a, b in zip(q[i][h], k[j][g])) / math.sqrt(D)
                     for j in range(first, i + 1)]
                total = math.log(sum(math.exp(x) for x in s))
                lse[h].append(total)
                row.append([sum(math.exp(x - total) * v[first + j][g][c] for j, x in enumerate(s))
                            for c in range(D)])
            o.append(row)
        first += length
    return o, lse


def flat(nested):
    return [x for part in nested for x in flat(part)] if isinstance(nested, list) else [nested]


def rows(count, heads):
    return [[[random.uniform(-1, 1) for _ in range(D)] for _ in range(heads)]
            for _ in range(count)]


def close(a, b, what, tolerance=1e-5):
    expect(len(a) == len(b), what, "has another size")
    worst = max((abs(x - y) for x, y in zip(a, b)), default=0)
    expect(worst <= tolerance, what, "differs by", worst)


def loss(q, k, v, weights):
    return sum(x * w for x, w in zip(flat(attention(q, k, v)[0]), weights))


def slope(q, k, v, weights, which, row, head, c):
    """d loss / d one number, by central difference."""
    tensor, step, found = (q, k, v)[which], 1e-4, []
    for sign in (1, -1):
        tensor[row][head][c] += sign * step
        found.append(loss(q, k, v, weights))
        tensor[row][head][c] -= sign * step
    return (found[0] - found[1]) / (2 * step)


def check_passes(folder):
    random.seed(7)
    total = sum(LENGTHS)
    q, k, v = rows(total, HQ), rows(total, HKV), rows(total, HKV)
    cu = [sum(LENGTHS[:i]) for i in range(len(LENGTHS) + 1)]
    tensors = {"q": ("F32", [total, HQ, D], flat(q)), "k": ("F32", [total, HKV, D], flat(k)),
               "v": ("F32", [total, HKV, D], flat(v)),
               "cu_seqlens_q": ("I32", [len(cu)], cu), "cu_seqlens_k": ("I32", [len(cu)], cu)}
    given, made = folder + "/in.safetensors", folder + "/out.safetensors"
    write(given, tensors)
    done = fasctl("forward", "--causal", "--in", given, "--out", made)
    expect(done.returncode == 0 and "3 sequences on cpu:0" in done.stdout, done)
    o, lse = attention(q, k, v)
    results = read(made)
    expect(results["o"][0] == [total, HQ, D] and results["lse"][0] == [HQ, total], results)
    close(results["o"][1], flat(o), "o")
    close(results["lse"][1], flat(lse), "lse")

    weights = [random.uniform(-1, 1) for _ in range(total * HQ * D)]
    tensors["o"] = ("F32", [total, HQ, D], list(results["o"][1]))
    tensors["lse"] = ("F32", [HQ, total], list(results["lse"][1]))
    tensors["do"] = ("F32", [total, HQ, D], weights)
    write(given, tensors)
    done = fasctl("backward", "--causal", "--deterministic", "--in", given, "--out", made)
    expect(done.returncode == 0, done.stderr)
    gradients = read(made)
    for which, (name, heads) in enumerate((("dq", HQ), ("dk", HKV), ("dv", HKV))):
        for row in range(total):
            head, c = row % heads, row % D
            close([gradients[name][1][(row * heads + head) * D + c]],
                  [slope(q, k, v, weights, which, row, head, c)], name, 1e-3)
    one = {"cu_seqlens_q": ("I32", [2], [0, total]), "cu_seqlens_k": ("I32", [2], [0, total])}
    write(given, {**tensors, **one})
    done = fasctl("forward", "--in", given, "--out", made)
    expect(done.returncode == 0 and "1 sequence on cpu:0" in done.stdout, done)
    return tensors


def check_errors(folder, tensors):
    bad, made = folder + "/bad.safetensors", folder + "/none.safetensors"
    cases = [
        ({"k": ("F32", [8, 3, D], [0.0] * 8 * 3 * D)}, "v: is F32"),
        ({"cu_seqlens_q": ("I32", [4], [0, 6, 5, 8])}, "cu_seqlens"),
        ({"cu_seqlens_q": ("I32", [3], [0, 5, 8])}, "is of 3 sequences, others are of 2"),
        ({"cu_seqlens_k": ("I32", [2], [0, 8])}, "is of 1 sequence, others are of 3"),
        ({"cu_seqlens_q": ("I32", [0], [])}, "cu_seqlens_q: is empty"),
        ({"cu_seqlens_q": ("F32", [4], [0, 5, 5, 8])}, "cu_seqlens_q: is not a list"),
        ({"q": ("F32", [8, HQ * D], [0.0] * 8 * HQ * D)}, "q: has neither"),
        ({"v": None}, "v: is missing"),
        ({"do": None}, "do: is missing"),
    ]
    for change, text in cases:
        changed = {name: value for name, value in {**tensors, **change}.items() if value}
        write(bad, changed)
        done = fasctl("backward", "--in", bad, "--out", made)
        expect(done.returncode == 1 and text in done.stderr, text, "not in", done.stderr)
        expect(not os.path.exists(made), "a failed call left a file")
    with open(bad, "wb") as file:
        file.write(b"\xff" * 100)
    done = fasctl("forward", "--in", bad, "--out", made)
    expect(done.returncode == 1 and "no safetensors file" in done.stderr, done.stderr)


def check_usage():
    for arguments, code, text in [
            ([], 2, ""), (["frobnicate"], 2, "no command"),
            (["ping", "--colour"], 2, "fasctl: ping: "),
            (["forward"], 2, "--in is needed"), (["bench", "--callers", "x"], 2, "callers"),
            (["bench", "--callers", "0"], 2, "callers"), (["ping", "now"], 2, "now"),
            (["bench", "--lengths", "12y"], 2, "lengths"),
            (["ping", "--url", "ipc:///nonexistent/sock"], 3,
             "UNAVAILABLE url: ipc:///nonexistent/sock: No such file or directory\n"
             "fasctl: is faserved running?"),
            (["ping", "--url", "tls+tcp://localhost:1"], 3, "--tls-ca names it"),
            (["ping", "--url", "tcp://localhost"], 3, "not host:port"),
            (["demo", "--texts", "/nonexistent"], 1, "no texts"),
            (["ping", "--timeout-ms", "0"], 2, "not within 1 .. 3600000"),
            (["bench", "--place", "cuda", "--lengths", "8"], 1, "the daemon has no GPU\n")]:
        done = fasctl(*arguments)
        expect(done.returncode == code and text in done.stderr, arguments, done)
    for command in ("ping", "stats", "top", "forward", "backward", "demo", "bench", "drain"):
        done = fasctl(command, "--help")
        expect(done.returncode == 0 and "--url" in done.stdout, command, done)
        behind = fasctl(command, "--timeout-ms", "7", "--help")
        expect(behind.returncode == 0 and behind.stdout == done.stdout, command, behind)
    expect("cu_seqlens_q" in fasctl("backward", "--help").stdout, "the files are not described")


def check_top():
    """A frame while requests run: rates are differences, the table fits a terminal."""
    load = subprocess.Popen([FASCTL, "bench", "--lengths", "4x64", "--seconds", "3", "--json"],
                            env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    done = fasctl("top", "--once", "--interval", "1")
    expect(done.returncode == 0, done)
    lines = done.stdout.splitlines()
    expect(max(map(len, lines)) <= 80, "past 80 columns", max(lines, key=len))
    for word in ("ready", "forward", "backward", "inline", "queue", "cpu:0", "processors"):
        expect(any(word in line for line in lines), word, "is not in the frame", done.stdout)
    done = fasctl("top", "--once", "--interval", "0.5", "--json")
    frame = json.loads(done.stdout)
    expect(frame["per_second"]["forward.requests"] > 0, frame)
    expect(frame["levels"]["forward.requests"] >= frame["per_second"]["forward.requests"] *
           frame["seconds"] * 0.99, frame)
    expect(0 < frame["per_second"]["cpu_us"] < 1.1e6 * os.cpu_count(), frame)
    expect(frame["per_second"]["connections"] == 0 and frame["levels"]["connections"] >= 2, frame)
    load.wait(60)
    done = fasctl("top", "--interval", "0")
    expect(done.returncode == 2 and "interval" in done.stderr, done)


def check_interrupt():
    """The load at hand ends and is printed, those after it are not run."""
    before = json.loads(fasctl("stats", "--json").stdout)["forward.requests"]
    bench = subprocess.Popen([FASCTL, "bench", "--seconds", "1", "--json"], env=ENVIRONMENT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while json.loads(fasctl("stats", "--json").stdout)["forward.requests"] == before:
        expect(bench.poll() is None, "no request")
    bench.send_signal(signal.SIGINT)
    printed, complaint = bench.communicate(timeout=60)
    expect(bench.returncode == 1 and "interrupted" in complaint, bench.returncode, complaint)
    rows = json.loads(printed)
    expect(0 < len(rows) < 4 and rows[0]["requests"] >= 20, rows)


def check_killed(folder):
    """The daemon dies under a load: it is said at once, once, and is no success."""
    for load in (["--callers", "4"], ["--rate", "200"]):
        path, began = folder + "/killed.sock", time.monotonic()
        daemon = subprocess.Popen([FASERVED, "--listen-ipc", path, "--device", "cpu:0",
                                   "--arena-bytes", "16MiB", "--log-level", "error"])
        atexit.register(daemon.kill)
        own = {**ENVIRONMENT, "FASERVE_URL": "ipc://" + path}
        ping = [FASCTL, "ping"]
        while subprocess.run(ping, env=own, capture_output=True, check=False).returncode:
            time.sleep(0.05)
        bench = subprocess.Popen([FASCTL, "bench", "--lengths", "4x64", "--seconds", "30", "--json",
                                  *load], env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True)
        time.sleep(1)
        daemon.kill()
        daemon.wait()
        printed, complaint = bench.communicate(timeout=60)
        expect(bench.returncode == 1 and "UNAVAILABLE" in complaint, bench.returncode, complaint)
        (row,) = json.loads(printed)
        # At most 64 are under way, and a few more come before it is known; not millions.
        expect(row["requests"] > 0 and 0 < row["failed"] <= 200, row)
        expect(time.monotonic() - began < 20, "it went on without a daemon")


def tcp_sockets(pid):
    """Of a process: what /proc/net/tcp knows of its descriptors."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        inodes = {line.split()[9] for line in file.readlines()[1:]}
    links = [os.readlink("/proc/%d/fd/%s" % (pid, fd)) for fd in os.listdir("/proc/%d/fd" % pid)]
    return sum(link.startswith("socket:[") and link[8:-1] in inodes for link in links)


def check_plain(folder):
    """The plain sockets beside bulk are of the kind that FASERVE_URL names."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
    secret, tokens = folder + "/secret", folder + "/tokens"
    for path, line in ((secret, "0123456789abcdef" * 4), (tokens, "a " + "0123456789abcdef" * 4)):
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(line + "\n")
    own = {**ENVIRONMENT, "FASERVE_URL": "tcp://" + address, "FASERVE_TOKEN_FILE": secret}
    daemon = subprocess.Popen([FASERVED, "--listen-ipc=", "--listen-tcp", address, "--token-file",
                               tokens, "--device", "cpu:0", "--arena-bytes", "256MiB",
                               "--log-level", "error"])
    atexit.register(daemon.kill)
    while subprocess.run([FASCTL, "ping"], env=own, capture_output=True, check=False).returncode:
        time.sleep(0.05)
    bench = subprocess.Popen([FASCTL, "bench", "--bulk"], env=own, stdout=subprocess.DEVNULL)
    most = 0
    while bench.poll() is None:
        most = max(most, tcp_sockets(bench.pid))
        time.sleep(0.02)
    expect(bench.returncode == 0 and most == 3, "two clients and a plain one, not", most)
    expect(fasctl("ping", "--url", "tcp://" + address, "--token-file", tokens).returncode == 3,
           "the daemon's own file of tokens is no token")
    daemon.terminate()
    expect(daemon.wait() == 0, daemon.returncode)


def check_baseline():
    """By turns with the same work in process: each request, all of them as one, all in one launch,
    as many as a batch has, one in parts."""
    program = FASERVED + " --device cpu:0 --arena-bytes 32MiB --log-level error"
    load = ["bench", "--lengths", "2x64", "--seconds", "0.2", "--callers", "3", "--baseline"]
    done = fasctl(*load, program, "--rounds", "3", "--parts", "2", "--json")
    expect(done.returncode == 0, done)
    (row,) = json.loads(done.stdout)
    expect(row["rounds"] == 3 and row["requests"] >= 20, row)
    for name in ("in_process_us", "in_process_p50_us", "union_us", "cut_us", "sets_of_union",
                 "batches_of_union"):
        expect(row[name] > 0, name, row)
    for name in ("of_in_process", "of_union", "cut_over"):
        expect(0 < row[name + "_min"] <= row[name] <= row[name + "_max"], name, row)
    expect(row["bytes_in"] == 128 * 64 * 2 * (8 + 2 + 2), row)
    done = fasctl(*load, program)
    expect(done.returncode == 0 and "in process as one launch" in done.stdout, done)
    expect("by request" in done.stdout and "by batch" in done.stdout, done)
    done = fasctl(*load, "false")
    expect(done.returncode == 1 and "no answer" in done.stderr, done)
    done = fasctl("bench", "--bulk", "--json", "--baseline", program)  # it ends, too
    expect(done.returncode == 0 and len(json.loads(done.stdout)) == 2, done)


def baseline(request):
    """faserved --baseline on one request, for a moment."""
    command = [FASERVED, "--device", "cpu:0", "--arena-bytes", "16MiB", "--baseline", "-"]
    return subprocess.run(command, input=json.dumps({"seconds": 0.01, "requests": [request]}),
                          text=True, capture_output=True, timeout=60, check=False)


def check_sets():
    """As many requests in one launch, each with its own tensors."""
    request = {"hq": 4, "d": 64, "lengths_q": [16, 9], "right": 0}
    (one,) = json.loads(baseline(request).stdout)["requests"]
    (three,) = json.loads(baseline({**request, "sets": 3}).stdout)["requests"]
    for name in ("sequences", "tokens", "flops"):
        expect(three[name] == 3 * one[name] > 0, name, one, three)
    for sets, field in ((0, "sets"), (257, "sets"), (256, "arena-bytes")):
        done = baseline({**request, "lengths_q": [16, 9, 100], "sets": sets})
        expect(done.returncode == 64 and field in done.stderr, done)


def main():
    done = subprocess.run([EXAMPLE, "ipc://" + SOCKET], text=True, capture_output=True,
                          timeout=60, check=False)
    expect(done.returncode == 0 and "o[4][0][0]" in done.stdout, done)
    expect("device" in fasctl("ping").stdout, "ping")
    stats = json.loads(fasctl("stats", "--json").stdout)
    expect(stats and all(isinstance(value, (int, float)) for value in stats.values()), stats)
    with tempfile.TemporaryDirectory() as folder:
        tensors = check_passes(folder)
        check_errors(folder, tensors)
        check_killed(folder)
        check_plain(folder)
    check_usage()
    check_top()
    done = fasctl("demo", "--bytes-max", "8000", "--notices", "6")
    expect(done.returncode == 0 and "all within tolerance" in done.stdout, done)
    for load in ([], ["--rate", "200"], ["--callers", "4", "--pass", "backward"],
                 ["--callers", "16"]):
        done = fasctl("bench", "--lengths", "2x64", "--seconds", "0.2", "--json", *load)
        expect(done.returncode == 0, done)
        (row,) = json.loads(done.stdout)
        expect(row["requests"] >= 20 and row["p99_us"] >= row["p50_us"] > 0, row)
    done = fasctl("bench", "--lengths", "8", "--callers", "200", "--seconds", "0.2", "--json")
    (row,) = json.loads(done.stdout)  # a connection has 64 calls: no room for some is no failure
    expect(done.returncode == 0 and row["failed"] > 0 and "calls_max" in done.stderr, done)
    check_interrupt()
    check_baseline()
    check_sets()
    expect(fasctl("ping").returncode == 0, "the daemon is gone")
    print("fasctl: ok")


main()
