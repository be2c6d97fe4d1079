/*
 * fuzz.h: what the fuzz targets share. Each target is one function over bytes nobody trusts; it
 * aborts where a property does not hold. Built twice: with libFuzzer (FAS_FUZZ, clang), which looks
 * for new inputs, and with replay.c, which runs the kept corpus under any compiler.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Not assert: properties are checked in release builds too. */
static inline void must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "property broken: %s\n", what);
        abort();
    }
}

#endif
