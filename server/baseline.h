/*
 * baseline.h: `faserved --baseline FILE` (or - for standard input): the same kernels, on a device
 * opened the same way, called in this process: what the service's cost is measured against.
 *
 * FILE is JSON, one spec after another, each from a line of its own on; each is answered with one
 * line when it was timed, so that who writes into a pipe can take turns with another load:
 *   { "seconds": 1,                       time per request, at least 3 and at most 10000 runs
 *     "in_flight": 1,                     2: the next launch is queued while one runs
 *     "parts": 1,                         launches that a request is cut into
 *     "copy_in_bytes": 0,                 what a request brings and takes along: copies of that
 *     "copy_out_bytes": 0,                much are timed, too, for some 0.3 s
 *     "requests": [
 *       { "pass": "forward",              or "backward"
 *         "dtype": "bf16",                or "fp16", "fp32"
 *         "hq": 8, "hkv": 2, "d": 64, "dv": 64,
 *         "lengths_q": [512, 300],        one per sequence
 *         "lengths_k": [512, 300],        absent: as lengths_q
 *         "left": 128, "right": 0,        window; absent: open. Causal is "right": 0
 *         "sets": 1,                      so many such requests, each with its own tensors
 *         "softcap": 0, "deterministic": false } ] }
 *
 * Only hq, d and lengths_q have to be there; hkv is hq, dv is d, the rest as above or off. What is
 * timed is the kernel's call on random data in the device's memory, one launch of the whole
 * request, or of all its `sets`, but for `parts`.
 *
 * Printed, JSON again:
 *   { "device": "cpu:0",
 *     "requests": [ { "kernel": "cpu_fwd", "sequences": 2, "tokens": 1624, "flops": 1.2e9,
 *                     "runs": 900, "mean_us": 106, "min_us": 101, "p50_us": 104, "p90_us": 120,
 *                     "p99_us": 180 } ] }
 * mean_us is from end to end, so it has what lies between launches, too. With copies, and a device
 * whose memory the host does not reach, also "copies_us": what those of one request take, from and
 * to pinned memory, both ways at once, one request's behind another's, and nothing else running.
 */
#ifndef SERVER_BASELINE_H
#define SERVER_BASELINE_H

#include "server/config.h"

/* Runs it on the first device of the config. Returns the process's exit status. */
int baseline_run(const struct config *config, const char *path);

#endif
