/*
 * texts.c: see texts.h.
 */
#include "client/fasctl/texts.h"

#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "client/fasctl/numbers.h"

#define LICENSES "/usr/share/common-licenses"
#define NOTICES "/usr/share/doc"
#define TEXTS_MAX 4096
/* A notice of this size is a few hundred tokens at most. */
#define NOTICE_BYTES_MAX 2000

/* ---- files ---- */

/* 64-bit FNV-1a of a token, cut to the vocabulary's 32 bits. */
static uint32_t token_id(const uint8_t *bytes, size_t count)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return (uint32_t)(hash ^ (hash >> 32));
}

static size_t token_length(const uint8_t *at, const uint8_t *end)
{
    const uint8_t *next = at;
    while (next < end && isalnum(*next)) {
        next++;
    }
    return next > at ? (size_t)(next - at) : 1;
}

static void tokenize(struct text *text, const uint8_t *bytes)
{
    const uint8_t *end = bytes + text->bytes;
    for (const uint8_t *at = bytes; at < end;) {
        if (isspace(*at)) {
            at++;
            continue;
        }
        size_t length = token_length(at, end);
        text->ids[text->tokens++] = token_id(at, length);
        at += length;
    }
}

static bool text_read(struct text *text, const char *path, int64_t bytes_min, int64_t bytes_max)
{
    struct stat status;
    if (lstat(path, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size < bytes_min ||
        status.st_size > bytes_max) {
        return false;
    }
    FILE *file = fopen(path, "re");
    if (!file) {
        return false;
    }
    uint8_t *bytes = malloc((size_t)status.st_size);
    text->ids = malloc(sizeof(uint32_t) * (size_t)status.st_size);
    bool read = bytes && text->ids;
    if (read) {
        text->bytes = (int64_t)fread(bytes, 1, (size_t)status.st_size, file);
        text->tokens = 0;
        tokenize(text, bytes);
    }
    fclose(file);
    free(bytes);
    if (!read || text->tokens == 0) {
        free(text->ids);
        return false;
    }
    return true;
}

/* The packages of one source carry the same notice. */
static bool texts_have(const struct texts *texts, const struct text *text)
{
    for (int i = 0; i < texts->count; i++) {
        const struct text *other = &texts->items[i];
        if (other->tokens == text->tokens &&
            memcmp(other->ids, text->ids, sizeof(uint32_t) * (size_t)text->tokens) == 0) {
            return true;
        }
    }
    return false;
}

static void texts_add(struct texts *texts, const char *path, const char *name, int64_t bytes_min,
                      int64_t bytes_max)
{
    struct text text;
    if (texts->count == TEXTS_MAX || !text_read(&text, path, bytes_min, bytes_max)) {
        return;
    }
    if (texts_have(texts, &text)) {
        free(text.ids);
        return;
    }
    snprintf(text.name, sizeof(text.name), "%.*s", TEXT_NAME_BYTES - 1, name);
    texts->items[texts->count++] = text;
}

/* Files of a folder, or FOLDER/x/leaf of each x in it, in order of name; at most `most`. */
static void texts_scan(struct texts *texts, const char *folder, const char *leaf, int most,
                       int64_t bytes_min, int64_t bytes_max)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, NULL, alphasort);
    int limit = texts->count + most;
    for (int i = 0; i < count; i++) {
        char path[1024];
        snprintf(path, sizeof(path), "%s/%s%s%s", folder, entries[i]->d_name, leaf ? "/" : "",
                 leaf ? leaf : "");
        if (entries[i]->d_name[0] != '.' && texts->count < limit) {
            texts_add(texts, path, entries[i]->d_name, bytes_min, bytes_max);
        }
        free(entries[i]);
    }
    free(entries);
}

bool texts_open(struct texts *texts, const char *folder, int small, int64_t bytes_max)
{
    texts->count = 0;
    texts->items = calloc(TEXTS_MAX, sizeof(*texts->items));
    if (!texts->items) {
        return false;
    }
    texts_scan(texts, folder ? folder : LICENSES, NULL, TEXTS_MAX, 1, bytes_max);
    if (!folder) {
        texts_scan(texts, NOTICES, "copyright", small, 200, NOTICE_BYTES_MAX);
    }
    return texts->count > 0;
}

void texts_close(struct texts *texts)
{
    for (int i = 0; i < texts->count; i++) {
        free(texts->items[i].ids);
    }
    free(texts->items);
    texts->items = NULL;
    texts->count = 0;
}

/* ---- projections ---- */

/* The embedding's width. Rows have unit variance, so projections of variance 1 / HIDDEN do, too. */
#define HIDDEN 64
/* Of one projection: 16 heads of 256 would do. */
#define OUTPUTS_MAX 4096

struct projection {
    uint64_t seed;
    int outputs;
    float *weights; /* (HIDDEN, outputs) */
};

struct projection *projection_open(uint64_t seed, int which, int heads, int width)
{
    struct projection *p = calloc(1, sizeof(*p));
    size_t outputs = (size_t)heads * (size_t)width;
    assert(outputs <= OUTPUTS_MAX);
    float *weights = malloc(sizeof(float) * HIDDEN * outputs);
    if (!p || !weights) {
        free(p);
        free(weights);
        return NULL;
    }
    uint64_t state = seed * 1000003u + (uint64_t)which;
    float scale = sqrtf(3.0f / HIDDEN); /* uniform numbers have variance 1/3 */
    for (size_t i = 0; i < HIDDEN * outputs; i++) {
        weights[i] = scale * number_uniform(&state);
    }
    p->seed = seed;
    p->outputs = (int)outputs;
    p->weights = weights;
    return p;
}

void projection_close(struct projection *projection)
{
    if (projection) {
        free(projection->weights);
        free(projection);
    }
}

void projection_row(const struct projection *p, uint32_t id, int32_t position, uint16_t *out)
{
    float hidden[HIDDEN], sums[OUTPUTS_MAX];
    uint64_t state = p->seed ^ ((uint64_t)id << 20);
    for (int i = 0; i < HIDDEN; i++) {
        /* The token, and a slow wave of its position. */
        float wave = sinf((float)position * powf(10000.0f, -(float)i / HIDDEN));
        hidden[i] = 1.5f * number_uniform(&state) + 0.5f * wave;
    }
    int outputs = p->outputs;
    memset(sums, 0, sizeof(float) * (size_t)outputs);
    for (int i = 0; i < HIDDEN; i++) {
        const float *weights = p->weights + (size_t)i * (size_t)p->outputs;
        for (int j = 0; j < outputs; j++) {
            sums[j] += hidden[i] * weights[j];
        }
    }
    for (int j = 0; j < outputs; j++) {
        out[j] = number_to_bf16(sums[j]);
    }
}
