/*
 * cuda.h: the CUDA driver as libfaserve needs it: opened at run time, so that nothing of CUDA is
 * linked, and a program without a GPU does without. Device memory is told from host memory by its
 * address, and handed to the daemon by its IPC handle, as events are. Thread-safe.
 */
#ifndef CLIENT_CUDA_H
#define CLIENT_CUDA_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/status.h"
#include "proto/wire.h"

/* One allocation of this process. `number` is never used twice: memory that was freed and
 * allocated anew at the same address is another allocation. */
struct cuda_allocation {
    uint8_t *base;
    uint64_t bytes, number;
};

/* The allocation that device memory lies in; false: it is no device memory. Costs under a
 * microsecond; nothing at all in a program that has not loaded CUDA. */
bool cuda_find(const void *data, struct cuda_allocation *allocation);

/* What the daemon needs to open it: handle and device. */
enum fas_status cuda_export(const struct cuda_allocation *allocation, struct wire_open *open,
                            struct fas_error *error);

/* The same of an event, cudaEvent_t, of the calling thread's current device. */
enum fas_status cuda_export_event(void *event, struct wire_open *open, struct fas_error *error);

/* Makes the context of a stream, cudaStream_t, this thread's, until cuda_leave. */
bool cuda_enter_stream(void *stream, void **context);
void cuda_leave(void);

void cuda_destroy_event(void *context, void *event);

/* In a context: an event that other processes can open, or NULL; recorded on a stream. */
void *cuda_make_event(void);
bool cuda_record(void *event, void *stream);

/* So many words of the host's, 0, that streams can wait for; for good. NULL: no memory. */
uint32_t *cuda_words(uint32_t count);

/* What is given to the stream from here on begins when the word is `value`, or further. */
bool cuda_wait_word(void *stream, const uint32_t *word, uint32_t value);

/* The uuid of a device as this process numbers them; false: it has no such. */
bool cuda_name_device(uint32_t ordinal, char uuid[FAS_NAME_BYTES_MAX]);

/* Memory of the device with this uuid, zeroed. */
enum fas_status cuda_alloc(const char *uuid, uint64_t bytes, void **memory,
                           struct fas_error *error);
void cuda_free(void *memory);

/* Between host and device memory, either way; returns when it is done. */
enum fas_status cuda_copy(void *to, const void *from, uint64_t bytes, struct fas_error *error);

#endif
