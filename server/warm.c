/* warm.c: one short sequence whose tensors all lie at the start of the arena. */
#include "server/warm.h"

/* Rows of the sequence: a tile and a part of one. */
#define WARM_ROWS 200

static struct attn_tensor place(const struct device *device, const struct attn_shape *shape)
{
    int64_t head_bytes = ATTN_HEAD_DIM_MAX * (int64_t)attn_dtype_bytes(shape->dtype);
    return (struct attn_tensor){device->arena, head_bytes * shape->hq, head_bytes};
}

static enum attn_status launch(const struct device *device, struct attn_context *context,
                               const struct attn_row *row, const struct attn_shape *shape)
{
    struct attn_tensor t = place(device, shape);
    struct attn_tensor statistics = {device->arena, 4, 4 * WARM_ROWS};
    const struct attn_set set = {
        .q = t, .k = t, .v = t, .o = t, .lse = statistics, .do_ = t, .dq = t, .dk = t, .dv = t};
    const struct attn_sequence sequence = {
        .q_len = WARM_ROWS, .k_len = WARM_ROWS, .q_span = WARM_ROWS, .k_span = WARM_ROWS};
    struct attn_launch launch = {.shape = *shape,
                                 .sets = &set,
                                 .sequences = &sequence,
                                 .set_count = 1,
                                 .sequence_count = 1,
                                 .scratch = device->scratch,
                                 .scratch_bytes = device->scratch_bytes};
    if (row->scratch_bytes(&launch) > device->scratch_bytes) {
        return ATTN_OK; /* no request of this shape fits either */
    }
    return row->launch(context, &launch);
}

/* The variants of a row, by bits of `variant`: dtype, softcap, deterministic. */
static enum attn_status launch_variant(const struct device *device, struct attn_context *context,
                                       const struct attn_row *row, unsigned variant)
{
    enum attn_dtype dtype = (enum attn_dtype)(variant % 3);
    struct attn_shape shape = {.pass = row->pass,
                               .dtype = dtype,
                               .hq = 1,
                               .hkv = 1,
                               .d = row->d_max,
                               .dv = row->dv_max,
                               .mask = {.has_right = true},
                               .softmax_scale = 0.1f,
                               .softcap = variant / 3 % 2 ? 30.0f : 0.0f,
                               .deterministic = variant / 6 % 2};
    bool served = row->dtypes >> dtype & 1 && !(row->refuse && row->refuse(&shape)) &&
                  (row->pass == ATTN_BACKWARD || !shape.deterministic);
    return served ? launch(device, context, row, &shape) : ATTN_OK;
}

const char *warm_rows(const struct device *device, struct attn_context *context)
{
    size_t count;
    const struct attn_row *rows = attn_rows(&count);
    for (size_t i = 0; i < count; i++) {
        for (unsigned variant = 0; rows[i].arch == device->arch && variant < 12; variant++) {
            if (launch_variant(device, context, &rows[i], variant) != ATTN_OK) {
                return rows[i].name;
            }
        }
    }
    return NULL;
}
