/*
 * example.c: a whole program. Two documents of 5 and 3 tokens, packed, 4 query heads over 2 key
 * heads, causal attention:
 *     example ipc:///run/faserved/faserved.sock
 */
#include <math.h>
#include <stdio.h>

#include "faserve.h"

enum { TOKENS = 8, HQ = 4, HKV = 2, D = 16 };

static float q[TOKENS][HQ][D], k[TOKENS][HKV][D], v[TOKENS][HKV][D];
static float o[TOKENS][HQ][D], lse[HQ][TOKENS];

int main(int argc, char **argv)
{
    struct fas_connect_options options = {.url = argc > 1 ? argv[1]
                                                          : "ipc:///run/faserved/faserved.sock"};
    struct fas_client *client;
    struct fas_error error;
    if (fas_connect(&options, &client, &error) != FAS_OK) {
        fprintf(stderr, "%s: %s\n", fas_status_name(error.status), error.text);
        return 1;
    }
    for (int token = 0; token < TOKENS; token++) {
        for (int i = 0; i < HQ * D; i++) {
            q[token][i / D][i % D] = sinf((float)(token * HQ * D + i));
        }
        for (int i = 0; i < HKV * D; i++) {
            k[token][i / D][i % D] = cosf((float)(token + i));
            v[token][i / D][i % D] = (float)token;
        }
    }
    const int32_t cu_seqlens[] = {0, 5, 8};
    struct fas_request request = {
        .pass = FAS_FORWARD,
        .dims = {FAS_FP32, .hq = HQ, .hkv = HKV, .d = D, .dv = D, .total_q = TOKENS,
                 .total_k = TOKENS},
        .batch = 2,
        .q.cu_seqlens = cu_seqlens,
        .k.cu_seqlens = cu_seqlens,
        .mask = {.has_right = true, .right = 0},
        .tensors = {[FAS_Q] = {q}, [FAS_K] = {k}, [FAS_V] = {v}, [FAS_O] = {o}, [FAS_LSE] = {lse}},
    };
    struct fas_report report;
    if (fas_run(client, &request, &report) != FAS_OK) {
        fprintf(stderr, "%s %s: %s\n", fas_status_name(report.error.status), report.error.field,
                report.error.text);
    } else {
        printf("o[4][0][0] = %g on %s, %llu us in the daemon\n", o[4][0][0], report.device,
               (unsigned long long)report.server_us);
    }
    fas_close(client);
    return report.error.status == FAS_OK ? 0 : 1;
}
