/*
 * Files from anywhere: what is written is read back; what lies is refused, naming the tensor, and
 * nothing outside the file is ever touched (the sanitizers watch).
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/fasctl/safetensors.h"
#include "tests/support/check_main.h"

static char path[64];
static char why[256];
static struct safetensors tensors;

static void file_of(const void *bytes, size_t count)
{
    snprintf(path, sizeof(path), "/tmp/fas_test_safetensors.%d", (int)getpid());
    FILE *file = fopen(path, "we");
    ck_assert_ptr_nonnull(file);
    ck_assert(count == 0 || fwrite(bytes, count, 1, file) == 1);
    fclose(file);
}

/* A file of this header and 64 bytes of data. */
static void file_with(const char *header)
{
    uint8_t bytes[4096] = {0};
    uint64_t length = strlen(header);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    file_of(bytes, 8 + length + 64);
}

static bool read_back(void)
{
    bool good = safetensors_read(path, &tensors, why);
    unlink(path);
    return good;
}

START_TEST(written_is_read_back)
{
    float numbers[2][3] = {{1, 2, 3}, {4, 5, 6}};
    const struct safetensor items[] = {
        {.name = "lse",
         .type = TYPE_F32,
         .rank = 2,
         .shape = {2, 3},
         .data = (const uint8_t *)numbers,
         .bytes = sizeof(numbers)},
        {.name = "none", .type = TYPE_BF16, .rank = 3, .shape = {0, 8, 64}},
    };
    file_of(NULL, 0);
    ck_assert(safetensors_write(path, items, 2, why));
    ck_assert(read_back());
    const struct safetensor *lse = safetensors_find(&tensors, "lse");
    ck_assert_ptr_nonnull(lse);
    ck_assert_int_eq(lse->type, TYPE_F32);
    ck_assert_str_eq(safetensors_shape_text(lse), "(2, 3)");
    ck_assert_mem_eq(lse->data, numbers, sizeof(numbers));
    ck_assert_uint_eq((uintptr_t)lse->data % 8, 0);
    ck_assert_uint_eq(safetensors_find(&tensors, "none")->bytes, 0);
    ck_assert_ptr_null(safetensors_find(&tensors, "q"));
    safetensors_free(&tensors);
}
END_TEST

/* As /dev/null is: it is still there afterwards, and nothing beside it. */
START_TEST(a_pipe_is_written_to)
{
    uint8_t bytes[256];
    char beside[80];
    struct stat status;
    const struct safetensor item = {
        .name = "q", .type = TYPE_I32, .rank = 1, .shape = {4}, .data = bytes, .bytes = 16};
    memset(bytes, 7, 16);
    snprintf(path, sizeof(path), "/tmp/fas_test_safetensors.%d", (int)getpid());
    snprintf(beside, sizeof(beside), "%s.part", path);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert(safetensors_write(path, &item, 1, why));
    ck_assert(stat(path, &status) == 0 && S_ISFIFO(status.st_mode));
    ck_assert_int_ne(access(beside, F_OK), 0);
    ck_assert_int_eq(read(fd, bytes, sizeof(bytes)), 8 + 64 + 16);
    ck_assert_int_eq(bytes[8 + 64 + 15], 7);
    close(fd);
    unlink(path);
}
END_TEST

START_TEST(other_types_and_metadata_are_skipped)
{
    file_with("{\"__metadata__\":{\"format\":\"pt\"},"
              "\"mask\":{\"dtype\":\"BOOL\",\"shape\":[64],\"data_offsets\":[0,64]},"
              "\"q\":{\"dtype\":\"F16\",\"shape\":[4,1,8],\"data_offsets\":[0,64]}}");
    ck_assert_msg(read_back(), "%s", why);
    ck_assert_int_eq(tensors.count, 1);
    safetensors_free(&tensors);
}
END_TEST

START_TEST(lies_are_refused)
{
    static const struct {
        const char *header, *why;
    } rows[] = {
        {"[1,2]", "no JSON object"},
        {"{\"q\":", "no JSON object"},
        {"{\"q\":7}", "q: has no dtype"},
        {"{\"q\":{\"dtype\":\"F32\"}}", "q: shape is no list"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[16]}}", "q: data_offsets"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0]}}", "q: data_offsets"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[17],\"data_offsets\":[0,68]}}", "do not lie"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[64,0]}}", "do not lie"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[-64,0]}}", "do not lie"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,1e300]}}", "do not lie"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[15],\"data_offsets\":[0,64]}}", "do not hold"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[-4,-4],\"data_offsets\":[0,64]}}", "whole numbers"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,6]}}", "whole numbers"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
         "do not hold"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,16],\"data_offsets\":[0,64]}}",
         "shape is no list"},
        {"{\"q\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]},"
         "\"q\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}}",
         "q: comes twice"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        file_with(rows[i].header);
        ck_assert_msg(!read_back(), "%s was accepted", rows[i].header);
        ck_assert_msg(strstr(why, rows[i].why), "%s: %s", rows[i].header, why);
    }
}
END_TEST

START_TEST(headers_that_do_not_fit_are_refused)
{
    static const uint64_t lengths[] = {1, 100, 1u << 30, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        file_of(&lengths[i], 8);
        ck_assert(!read_back());
    }
    file_of("short", 5);
    ck_assert(!read_back());
    file_of(NULL, 0);
    ck_assert(!read_back());
    ck_assert(!safetensors_read("/nonexistent", &tensors, why));
    ck_assert(!safetensors_read("/tmp", &tensors, why));
}
END_TEST

/* Nesting is bounded by the JSON library; a deep header is an error and no overflow of the stack.
 */
START_TEST(deep_nesting_is_refused)
{
    enum { DEEP = 200000 };
    uint8_t *bytes = malloc(8 + DEEP);
    uint64_t length = DEEP;
    memcpy(bytes, &length, 8);
    memset(bytes + 8, '[', DEEP);
    file_of(bytes, 8 + DEEP);
    free(bytes);
    ck_assert(!read_back());
}
END_TEST

static const struct check_row rows[] = {
    {"written is read back", &written_is_read_back},
    {"a pipe is written to", &a_pipe_is_written_to},
    {"other types and metadata are skipped", &other_types_and_metadata_are_skipped},
    {"lies are refused", &lies_are_refused},
    {"headers that do not fit are refused", &headers_that_do_not_fit_are_refused},
    {"deep nesting is refused", &deep_nesting_is_refused},
};

CHECK_MAIN("safetensors", rows)
