/*
 * safetensors.h: tensors in a file: a JSON header and raw bytes (huggingface.co/docs/safetensors).
 * Files come from anywhere and are believed nothing: sizes, offsets and shapes are checked against
 * each other and the file before a tensor is handed out.
 */
#ifndef FASCTL_SAFETENSORS_H
#define FASCTL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A header names tensors; a megabyte would be ten thousand of them. */
#define SAFETENSORS_HEADER_BYTES_MAX (1u << 20)
#define SAFETENSORS_RANK_MAX 8
#define SAFETENSORS_NAME_BYTES 64

enum safetensors_type { TYPE_BF16, TYPE_F16, TYPE_F32, TYPE_I32, TYPE_I64, TYPE_COUNT };

struct safetensor {
    char name[SAFETENSORS_NAME_BYTES];
    enum safetensors_type type;
    int rank;
    int64_t shape[SAFETENSORS_RANK_MAX];
    const uint8_t *data; /* at any alignment */
    uint64_t bytes;
};

struct safetensors {
    struct safetensor *items; /* those of types we know */
    int count;
    uint8_t *file;
};

/* False: *why says what is wrong with the file, naming the tensor. */
bool safetensors_read(const char *path, struct safetensors *tensors, char why[256]);
void safetensors_free(struct safetensors *tensors);

/* The tensor of that name, or NULL. */
const struct safetensor *safetensors_find(const struct safetensors *tensors, const char *name);

/* Writes beside `path` and renames: the file is there whole or not at all. A device or pipe at
 * `path` is written to instead. */
bool safetensors_write(const char *path, const struct safetensor *items, int count, char why[256]);

const char *safetensors_type_name(enum safetensors_type type); /* "BF16" */
uint32_t safetensors_type_bytes(enum safetensors_type type);
/* "(8, 2, 64)", in one of four texts used in turn. */
const char *safetensors_shape_text(const struct safetensor *tensor);

#endif
