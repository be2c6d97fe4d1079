#!/usr/bin/python3
"""/metrics, /healthz and /readyz of live daemons, as Prometheus and a hostile client use them. The
judge of the page is Prometheus' own parser; beside it stand the rules of its naming guide.
usage: test_metrics.py FASERVED FASERVED_FAULTY FASCTL"""

import atexit
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

from prometheus_client.parser import text_string_to_metric_families

FASERVED, FASERVED_FAULTY, FASCTL = sys.argv[1:4]


def expect(condition, *what):
    if not condition:
        print("FAILED:", *what)
        sys.exit(1)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Daemon:
    def __init__(self, program, *options, **environment):
        self.folder = tempfile.TemporaryDirectory()
        self.url = "ipc://" + self.folder.name + "/socket"
        self.port = free_port()
        self.log = self.folder.name + "/log"
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [program, "--config=/dev/null", "--listen-ipc=" + self.folder.name + "/socket",
                 "--arena-bytes=64MiB", f"--metrics-address={self.port}", *options],
                stderr=log, env=dict(os.environ, **environment))
        atexit.register(self.process.kill)
        deadline = time.monotonic() + 60
        while "event=ready" not in self.text():
            expect(self.process.poll() is None and time.monotonic() < deadline, self.text())
            time.sleep(0.02)

    def text(self):
        with open(self.log, encoding="utf-8") as log:
            return log.read()

    def ask(self, path, method="GET", body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text

    def samples(self):
        """(name, labels) -> value"""
        page = self.ask("/metrics")[1]
        return {(s.name, tuple(sorted(s.labels.items()))): s.value
                for family in text_string_to_metric_families(page) for s in family.samples}

    def value(self, name, **labels):
        return self.samples()["faserved_" + name, tuple(sorted(labels.items()))]

    def fasctl(self, *arguments):
        return subprocess.run([FASCTL, *arguments, "--url=" + self.url], text=True, timeout=120,
                              capture_output=True, check=False)

    def demo(self):
        return self.fasctl("demo", "--bytes-max=3000", "--notices=2")

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


# ---- the page ----

def check_family(family):
    """What promtool check metrics asks for."""
    name = family.name
    expect(re.fullmatch(r"faserved_[a-z][a-z_]*", name), name)
    expect(family.documentation.endswith("."), name, "has no sentence of help")
    expect(family.type in ("counter", "gauge", "histogram"), name, family.type)
    expect(not re.search(r"_(us|ms|kb|mb|count|sum|bucket|info_total)$", name), name)
    expect(family.samples, name, "has no sample")
    for sample in family.samples:
        if family.type == "counter":
            expect(sample.name == name + "_total" and sample.value >= 0, sample)
    if family.type == "histogram":
        check_histogram(family)


def check_histogram(family):
    series = {}
    for sample in family.samples:
        labels = {k: v for k, v in sample.labels.items() if k != "le"}
        one = series.setdefault(tuple(labels.items()), {"buckets": []})
        if sample.name.endswith("_bucket"):
            one["buckets"].append((float(sample.labels["le"]), sample.value))
        else:
            one[sample.name[len(family.name):]] = sample.value
    for one in series.values():
        bounds, counts = zip(*one["buckets"])
        expect(list(bounds) == sorted(set(bounds)) and bounds[-1] == float("inf"), family.name)
        expect(list(counts) == sorted(counts) and counts[-1] == one["_count"], family.name)


def check_page(daemon):
    answer, page = daemon.ask("/metrics")
    expect(answer.status == 200, answer.status)
    expect(answer.getheader("Content-Type").startswith("text/plain; version=0.0.4"),
           answer.getheader("Content-Type"))
    families = list(text_string_to_metric_families(page))
    names = [family.name for family in families]
    expect(len(names) == len(set(names)) and len(names) > 30, names)
    for family in families:
        check_family(family)


def check_numbers(daemon):
    """The page, fasctl stats and what a known client did agree."""
    before = daemon.samples()
    done = daemon.demo()
    expect(done.returncode == 0, done.stdout, done.stderr)
    time.sleep(0.2)  # a page is at most 0.1 s old
    after = daemon.samples()
    stats = json.loads(daemon.fasctl("stats", "--json").stdout)

    def grew(name, **labels):
        key = ("faserved_" + name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    forwards = grew("requests_total", **{"pass": "forward", "status": "OK"})
    expect(forwards > 0, "no forward was counted")
    expect(forwards == grew("requests_total", **{"pass": "backward", "status": "OK"}), forwards)
    expect(stats["requests_ok"] == 2 * forwards == grew("request_seconds_count"), stats)
    expect(grew("principal_requests_total", principal=f"uid:{os.getuid()}") == 2 * forwards)
    tokens = sum(grew("tokens_total", **{"pass": p}) for p in ("forward", "backward"))
    expect(stats["tokens"] == tokens > 0, tokens)
    for direction in ("in", "out"):
        moved = grew("payload_bytes_total", direction=direction, place="inline")
        expect(stats[f"bytes_{direction}.inline"] == moved > 0, moved)
    expect(0 < grew("cpu_seconds_total") < 1.1 * os.cpu_count() * grew("uptime_seconds"), after)
    computed = sum(grew("device_flops_total", device=f"cpu:{i}") for i in range(2))
    expect(abs(computed / sum(grew("flops_total", **{"pass": p})
                              for p in ("forward", "backward")) - 1) < 1e-9, computed)


# ---- who asks ----

def check_manners(daemon):
    for path in ("/healthz", "/readyz"):
        answer, text = daemon.ask(path)
        expect(answer.status == 200 and text, path, answer.status)
    answer, text = daemon.ask("/metrics", "HEAD")
    expect(answer.status == 200 and text == "" and int(answer.getheader("Content-Length")) > 1000)
    for method, body in (("POST", "x" * 100000), ("PUT", "x"), ("DELETE", None), ("BREW", None)):
        try:
            answer = daemon.ask("/metrics", method, body)[0]
            expect(answer.status == 405 and answer.getheader("Allow") == "GET, HEAD", method)
        except (BrokenPipeError, ConnectionResetError):
            expect(method == "POST", method)  # it was answered before its body was sent
    for path in ("/", "/metrics/", "/../etc/passwd", "/metricsx", "/%2e%2e"):
        expect(daemon.ask(path)[0].status == 404, path)


def check_hostile(daemon):
    """Clients that dawdle, flood or talk nonsense; meanwhile the daemon serves as ever."""
    descriptors = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    slow = []
    for i in range(40):
        client = socket.create_connection(("127.0.0.1", daemon.port), timeout=30)
        client.sendall([b"GET /metrics HTT", b"", b"\0\xff\x16\x03\x01 nonsense\r\n\r\n",
                        b"GET /" + b"x" * 60000][i % 4])
        slow.append(client)
    expect(daemon.demo().returncode == 0, "requests wait behind HTTP")
    begun = time.monotonic()
    open_ends = list(slow)
    while open_ends and time.monotonic() - begun < 60:
        for client in list(open_ends):
            try:
                client.sendall(b"x")  # never idle, never done
                client.setblocking(False)
                if client.recv(65536) == b"":
                    open_ends.remove(client)
            except BlockingIOError:
                pass
            except OSError:
                open_ends.remove(client)
        time.sleep(0.2)
    expect(not open_ends, len(open_ends), "slow clients are still there after a minute")
    for client in slow:
        client.close()
    expect(daemon.ask("/healthz")[0].status == 200, "nobody is served after them")
    time.sleep(0.2)
    left = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    expect(left <= descriptors + 2, "descriptors stay open:", descriptors, left)


def check_refusals(daemon):
    """A port that is taken is told at once, and by name."""
    for address, why in ((str(daemon.port), "Address already in use"), ("nowhere", "not host:port"),
                         ("127.0.0.1:99999", "not host:port"), ("192.0.2.1:9", "192.0.2.1:9")):
        with tempfile.TemporaryDirectory() as folder:
            second = subprocess.run(
                [FASERVED, "--config=/dev/null", "--listen-ipc=" + folder + "/socket",
                 "--device=cpu:0", "--arena-bytes=16MiB", "--metrics-address=" + address],
                capture_output=True, text=True, timeout=60, check=False)
        expect(second.returncode == 64, address, second.returncode)
        last = second.stderr.splitlines()[-1]
        expect("metrics-address" in last and why in last, last)


def check_lost_device():
    """One device of two fails: still ready, and the page says which one it was."""
    daemon = Daemon(FASERVED_FAULTY, "--device=cpu:0,cpu:1", FASERVED_FAULT="cpu:1 1")
    expect(daemon.value("device_up", device="cpu:1") == 1, "cpu:1 is up at first")
    daemon.demo()
    time.sleep(0.2)
    answer, text = daemon.ask("/readyz")
    expect(answer.status == 200 and "cpu:0 ok\ncpu:1 failed\n" in text, text)
    expect(daemon.value("device_up", device="cpu:1") == 0, "cpu:1 is down")
    expect(daemon.value("device_up", device="cpu:0") == 1, "cpu:0 is up")
    expect(daemon.stop() == 0, daemon.text())


def wait_ready(daemon, status, line):
    deadline = time.monotonic() + 20
    while True:
        answer, text = daemon.ask("/readyz")
        if answer.status == status and line in text:
            return
        expect(time.monotonic() < deadline, status, line, text, daemon.text())
        time.sleep(0.02)


def check_stalled_device():
    """Launches that take too long: not ready as long as they do."""
    daemon = Daemon(FASERVED_FAULTY, "--device=far:0", "--launch-timeout=4s",
                    FASERVED_FAULT="far:0/slow 1")
    # So short a text is estimated at less than 0.1 ms: 0.9 s are far too late.
    with tempfile.TemporaryDirectory() as texts:
        with open(texts + "/text", "w", encoding="utf-8") as text:
            text.write("one short text\n")
        load = subprocess.Popen([FASCTL, "demo", "--texts=" + texts, "--url=" + daemon.url],
                                stdout=subprocess.DEVNULL)
        wait_ready(daemon, 503, "stalled\nfar:0 stalled\n")
        expect(daemon.value("device_up", device="far:0") == 0, "far:0 counts as down")
        expect(load.wait(60) == 0, daemon.text())
    wait_ready(daemon, 200, "ready\nfar:0 ok\n")
    expect("event=device_stalled" in daemon.text(), daemon.text())
    expect("event=device_resumed" in daemon.text(), daemon.text())
    expect(daemon.stop() == 0, daemon.text())


def check_hung_device():
    """A launch that never ends: not ready, then an exit for the service manager to see."""
    daemon = Daemon(FASERVED_FAULTY, "--device=far:0", "--launch-timeout=2s",
                    FASERVED_FAULT="far:0/hang 2")
    began = time.monotonic()
    done = daemon.fasctl("bench", "--lengths=64", "--seconds=0.01")
    expect(done.returncode == 1 and "UNAVAILABLE" in done.stderr, done)
    expect(daemon.process.wait(20) == 70, daemon.text())
    expect(time.monotonic() - began > 1.9, "too early")
    expect(daemon.text().index("event=device_stalled") < daemon.text().index("event=device_hung"),
           daemon.text())


def main():
    daemon = Daemon(FASERVED, "--device=cpu:0,cpu:1")
    check_page(daemon)
    check_numbers(daemon)
    check_manners(daemon)
    check_refusals(daemon)
    check_hostile(daemon)
    check_page(daemon)
    expect(daemon.stop() == 0, daemon.text())
    check_lost_device()
    check_stalled_device()
    check_hung_device()


if __name__ == "__main__":
    main()
