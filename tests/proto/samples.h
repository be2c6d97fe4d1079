/*
 * samples.h: one good struct of every header, with every field set and no two numbers alike, so
 * that a field lost or swapped on the way shows. Shared by the tests and the corpus of the fuzzers.
 */
#ifndef SAMPLES_H
#define SAMPLES_H

#include "proto/wire.h"

struct wire_hello sample_hello(void);
struct wire_hello_ack sample_hello_ack(void);
struct wire_open sample_region(void);
struct wire_open sample_cuda(void);
struct wire_request sample_forward(void);  /* inline, cu_seqlens on q, padded k, every option */
struct wire_request sample_backward(void); /* tensors in place, window, dlse */
struct wire_request sample_handle(void);   /* backward of a retained forward */
struct wire_result sample_result(void);
struct wire_done sample_done(void);
struct fas_error sample_error(void);
void sample_stats(struct wire_stats *stats, uint32_t count); /* names as long as they can be */

#endif
