/*
 * fuzz_wire.c: byte 0 picks one of the headers, the rest is its bytes. What decodes must encode,
 * and decode again to what encodes to the same bytes. A request that decodes has sizes that fit.
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "tests/proto/codecs.h"

static void check_request(const struct wire_request *request)
{
    uint32_t tensors = wire_request_inputs(request) | wire_request_outputs(request);
    for (int i = 0; i < FAS_TENSOR_COUNT; i++) {
        if ((tensors & (1u << i)) != 0) {
            must(fas_tensor_bytes(&request->dims, (enum fas_tensor)i) <= UINT64_C(1) << 50,
                 "no tensor is larger than the limits say");
        }
    }
    must(wire_lengths_bytes(request) <= FAS_LENGTHS_BYTES_MAX, "lengths fit their payload");
    must(wire_request_check(request, NULL) == FAS_OK, "what was decoded was checked");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static union header first, second;
    static uint8_t out[FAS_HEADER_BYTES_MAX], again[FAS_HEADER_BYTES_MAX];
    if (bytes == 0) {
        return 0;
    }
    const struct codec *codec = &codecs[data[0] % CODEC_COUNT];
    struct fas_error error = {.status = FAS_OK};
    enum fas_status status = codec->decode(data + 1, bytes - 1, &first, &error);
    if (status != FAS_OK) {
        must(error.status == status && error.field[0] != '\0', "the error names a field");
        return 0;
    }
    size_t encoded = codec->encode(&first, out);
    must(encoded <= sizeof out, "an encoding fits its buffer");
    must(codec->decode(out, encoded, &second, &error) == FAS_OK, "what decodes encodes");
    must(codec->encode(&second, again) == encoded, "it encodes to the same length");
    must(memcmp(out, again, encoded) == 0, "and to the same bytes");
    if (codec == &codecs[CODEC_REQUEST]) {
        check_request(&first.request);
    }
    return 0;
}
