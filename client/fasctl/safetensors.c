/*
 * safetensors.c: see safetensors.h. The file is a u64 little-endian header length, the header, and
 * the tensors' bytes; offsets count from the end of the header.
 */
#include "client/fasctl/safetensors.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WHY_BYTES 256

static const struct {
    const char *name;
    uint32_t bytes;
} types[TYPE_COUNT] = {{"BF16", 2}, {"F16", 2}, {"F32", 4}, {"I32", 4}, {"I64", 8}};

const char *safetensors_type_name(enum safetensors_type type)
{
    return types[type].name;
}

uint32_t safetensors_type_bytes(enum safetensors_type type)
{
    return types[type].bytes;
}

const char *safetensors_shape_text(const struct safetensor *tensor)
{
    static char texts[4][128];
    static unsigned next;
    char *text = texts[next++ % 4];
    size_t used = 1;
    text[0] = '(';
    for (int i = 0; i < tensor->rank && used < 100; i++) {
        used += (size_t)snprintf(text + used, 128 - used, "%s%lld", i ? ", " : "",
                                 (long long)tensor->shape[i]);
    }
    snprintf(text + used, 128 - used, ")");
    return text;
}

/* ---- reading ---- */

/* A whole number that a double holds exactly, 0 .. 2^53. */
static bool whole(const cJSON *item, int64_t *value)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) ||
        item->valuedouble > 9007199254740992.0 ||
        item->valuedouble != (double)(int64_t)item->valuedouble) {
        return false;
    }
    *value = (int64_t)item->valuedouble;
    return true;
}

/* The product of the shape, with its bytes; false when it overflows what a file could hold. */
static bool shape_bytes(const struct safetensor *tensor, uint64_t *bytes)
{
    *bytes = safetensors_type_bytes(tensor->type);
    for (int i = 0; i < tensor->rank; i++) {
        if (__builtin_mul_overflow(*bytes, (uint64_t)tensor->shape[i], bytes)) {
            return false;
        }
    }
    return true;
}

static bool read_shape(struct safetensor *tensor, const cJSON *shape, char *why)
{
    if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) > SAFETENSORS_RANK_MAX) {
        snprintf(why, WHY_BYTES, "%s: shape is no list of at most %d", tensor->name,
                 SAFETENSORS_RANK_MAX);
        return false;
    }
    const cJSON *item;
    tensor->rank = 0;
    cJSON_ArrayForEach(item, shape)
    {
        if (!whole(item, &tensor->shape[tensor->rank++])) {
            snprintf(why, WHY_BYTES, "%s: shape has something other than whole numbers",
                     tensor->name);
            return false;
        }
    }
    return true;
}

/* *known is false for types that attention has no use for: they are skipped, not refused. */
static bool read_tensor(struct safetensor *tensor, const cJSON *item, const uint8_t *data,
                        uint64_t room, bool *known, char *why)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(item, "dtype");
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
    int64_t begin, end;
    snprintf(tensor->name, sizeof(tensor->name), "%s", item->string);
    if (!cJSON_IsString(type)) {
        snprintf(why, WHY_BYTES, "%s: has no dtype", tensor->name);
        return false;
    }
    int index = 0;
    while (index < TYPE_COUNT && strcmp(type->valuestring, types[index].name) != 0) {
        index++;
    }
    *known = index < TYPE_COUNT;
    if (!*known) {
        return true;
    }
    tensor->type = (enum safetensors_type)index;
    if (!read_shape(tensor, cJSON_GetObjectItemCaseSensitive(item, "shape"), why)) {
        return false;
    }
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !whole(cJSON_GetArrayItem(offsets, 0), &begin) ||
        !whole(cJSON_GetArrayItem(offsets, 1), &end) || begin > end || (uint64_t)end > room) {
        snprintf(why, WHY_BYTES, "%s: data_offsets do not lie in the file", tensor->name);
        return false;
    }
    if (!shape_bytes(tensor, &tensor->bytes) || tensor->bytes != (uint64_t)(end - begin)) {
        snprintf(why, WHY_BYTES, "%s: data_offsets do not hold a %s of shape %s", tensor->name,
                 type->valuestring, safetensors_shape_text(tensor));
        return false;
    }
    tensor->data = data + begin;
    return true;
}

static bool read_header(struct safetensors *tensors, const cJSON *header, const uint8_t *data,
                        uint64_t room, char *why)
{
    const cJSON *item;
    tensors->items = calloc((size_t)cJSON_GetArraySize(header) + 1, sizeof(*tensors->items));
    if (!tensors->items) {
        snprintf(why, WHY_BYTES, "out of memory");
        return false;
    }
    cJSON_ArrayForEach(item, header)
    {
        struct safetensor *tensor = &tensors->items[tensors->count];
        bool known;
        if (strcmp(item->string, "__metadata__") == 0) {
            continue;
        }
        if (strlen(item->string) >= SAFETENSORS_NAME_BYTES) {
            continue; /* none of ours */
        }
        if (safetensors_find(tensors, item->string)) {
            snprintf(why, WHY_BYTES, "%s: comes twice", item->string);
            return false;
        }
        if (!read_tensor(tensor, item, data, room, &known, why)) {
            return false;
        }
        tensors->count += known;
    }
    return true;
}

/* The whole file in memory: a file that shrinks meanwhile is then an error and not a signal. */
static bool read_file(const char *path, uint8_t **file, uint64_t *bytes, char *why)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        snprintf(why, WHY_BYTES, "%s", fd < 0 ? strerror(errno) : "is no regular file");
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    *bytes = (uint64_t)status.st_size;
    *file = malloc(*bytes ? *bytes : 1);
    uint64_t have = 0;
    ssize_t n = 1;
    while (*file && have < *bytes && n > 0) {
        n = read(fd, *file + have, *bytes - have);
        have += n > 0 ? (uint64_t)n : 0;
    }
    close(fd);
    if (!*file || have < *bytes) {
        snprintf(why, WHY_BYTES, *file ? "can not be read" : "out of memory");
        free(*file);
        *file = NULL;
        return false;
    }
    return true;
}

bool safetensors_read(const char *path, struct safetensors *tensors, char why[256])
{
    uint64_t bytes, header_bytes = 0;
    memset(tensors, 0, sizeof(*tensors));
    if (!read_file(path, &tensors->file, &bytes, why)) {
        return false;
    }
    if (bytes >= 8) {
        memcpy(&header_bytes, tensors->file, 8);
    }
    if (bytes < 8 || header_bytes > bytes - 8 || header_bytes > SAFETENSORS_HEADER_BYTES_MAX) {
        snprintf(why, WHY_BYTES, "is no safetensors file: its header would not fit");
        safetensors_free(tensors);
        return false;
    }
    cJSON *header = cJSON_ParseWithLength((const char *)tensors->file + 8, header_bytes);
    bool good = cJSON_IsObject(header);
    if (!good) {
        snprintf(why, WHY_BYTES, "is no safetensors file: its header is no JSON object");
    }
    good = good && read_header(tensors, header, tensors->file + 8 + header_bytes,
                               bytes - 8 - header_bytes, why);
    cJSON_Delete(header);
    if (!good) {
        safetensors_free(tensors);
    }
    return good;
}

void safetensors_free(struct safetensors *tensors)
{
    free(tensors->items);
    free(tensors->file);
    memset(tensors, 0, sizeof(*tensors));
}

const struct safetensor *safetensors_find(const struct safetensors *tensors, const char *name)
{
    for (int i = 0; i < tensors->count; i++) {
        if (strcmp(tensors->items[i].name, name) == 0) {
            return &tensors->items[i];
        }
    }
    return NULL;
}

/* ---- writing ---- */

/* The header, padded with blanks so that the data behind it is aligned. */
static char *header_text(const struct safetensor *items, int count)
{
    cJSON *header = cJSON_CreateObject();
    uint64_t offset = 0;
    for (int i = 0; i < count; i++) {
        cJSON *item = cJSON_CreateObject(), *shape = cJSON_CreateArray();
        const double offsets[] = {(double)offset, (double)(offset + items[i].bytes)};
        for (int d = 0; d < items[i].rank; d++) {
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)items[i].shape[d]));
        }
        cJSON_AddStringToObject(item, "dtype", types[items[i].type].name);
        cJSON_AddItemToObject(item, "shape", shape);
        cJSON_AddItemToObject(item, "data_offsets", cJSON_CreateDoubleArray(offsets, 2));
        cJSON_AddItemToObject(header, items[i].name, item);
        offset += items[i].bytes;
    }
    char *text = cJSON_PrintUnformatted(header);
    cJSON_Delete(header);
    size_t length = text ? strlen(text) : 0, padded = (length + 63) / 64 * 64;
    char *aligned = text ? realloc(text, padded + 1) : NULL;
    if (aligned) {
        memset(aligned + length, ' ', padded - length);
        aligned[padded] = 0;
    } else {
        free(text);
    }
    return aligned;
}

static bool write_all(FILE *file, const struct safetensor *items, int count)
{
    char *header = header_text(items, count);
    uint64_t header_bytes = header ? strlen(header) : 0;
    bool good = header && fwrite(&header_bytes, 8, 1, file) == 1 &&
                fwrite(header, header_bytes, 1, file) == 1;
    for (int i = 0; good && i < count; i++) {
        good = items[i].bytes == 0 || fwrite(items[i].data, items[i].bytes, 1, file) == 1;
    }
    free(header);
    return good;
}

/* Renaming would put a file in its place: who may, root, would lose /dev/null to it. */
static bool is_device_or_pipe(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

bool safetensors_write(const char *path, const struct safetensor *items, int count, char why[256])
{
    char beside[4096];
    bool renames = !is_device_or_pipe(path);
    int length = snprintf(beside, sizeof(beside), "%s%s", path, renames ? ".part" : "");
    FILE *file = length < (int)sizeof(beside) ? fopen(beside, "we") : NULL;
    bool good = file && write_all(file, items, count);
    if (file) {
        good = fclose(file) == 0 && good;
    }
    good = good && (!renames || rename(beside, path) == 0);
    if (!good) {
        snprintf(why, WHY_BYTES, "can not be written: %s", strerror(errno));
        if (file && renames) {
            unlink(beside);
        }
    }
    return good;
}
