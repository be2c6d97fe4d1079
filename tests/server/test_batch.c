/* batch: every sequence of every request is launched exactly once, in slices of bounded work. */
#include "server/batch.h"

#include <string.h>

#include "tests/support/check_main.h"
#include "tests/support/random.h"

enum { REQUESTS = 12, SEQUENCES = 20 };

static const struct attn_shape shape = {
    .pass = ATTN_FORWARD, .hq = 2, .hkv = 1, .d = 64, .dv = 64, .softmax_scale = 1};

/* Requests of a test: their sets are told apart by the sink's address. */
static float identity[REQUESTS];
static struct attn_set sets[REQUESTS];
static struct attn_sequence sequences[REQUESTS][SEQUENCES];
static struct batch_part parts[REQUESTS];

static void make_part(int r, int count, struct random *random)
{
    sets[r] = (struct attn_set){.sink = &identity[r]};
    parts[r] = (struct batch_part){.slot = 100u + (uint32_t)r,
                                   .set = &sets[r],
                                   .sequences = sequences[r],
                                   .sequence_count = count};
    for (int s = 0; s < count; s++) {
        int32_t q = (int32_t)random_below(random, 500);
        int32_t k = (int32_t)random_below(random, 500);
        sequences[r][s] = (struct attn_sequence){
            .index = s, .q_first = 1000 * r + s, .q_len = q, .k_len = k, .q_span = q, .k_span = k};
        parts[r].flops += attn_flops(&shape, q, k);
    }
}

/* Which request a launched sequence reads, by its set. */
static int request_of(const struct attn_launch *launch, int32_t i)
{
    int32_t set = launch->sequences[i].set;
    if (set < 0 || set >= launch->set_count) {
        ck_abort_msg("set %d of %d", set, launch->set_count);
    }
    return (int)(launch->sets[set].sink - identity);
}

/* Position in the batch of the request that came in as part r. */
static int32_t position_of(const struct batch *batch, int r)
{
    for (int32_t i = 0; i < batch->request_count; i++) {
        if (batch->requests[i].slot == 100u + (uint32_t)r) {
            return i;
        }
    }
    ck_abort_msg("request %d is missing", r);
}

START_TEST(every_sequence_is_launched_once_and_reported_where_it_ran)
{
    struct random random = random_open(3);
    struct batch batch;
    ck_assert(batch_open(&batch, REQUESTS, REQUESTS * SEQUENCES));
    for (int round = 0; round < 300; round++) {
        int count = 1 + (int)random_below(&random, REQUESTS);
        for (int r = 0; r < count; r++) {
            make_part(r, (int)random_below(&random, SEQUENCES + 1), &random);
        }
        double slice_flops = 1e5 * (double)(1 + random_below(&random, 1000));
        double part_flops = slice_flops * (double)(1 + random_below(&random, 8));
        const struct batch_cut cut = {slice_flops, part_flops};
        batch_layout(&batch, (uint64_t)round, &shape, parts, count, &cut);

        int launched[REQUESTS][SEQUENCES] = {0};
        int ended[REQUESTS] = {0};
        int reported[REQUESTS] = {0};
        for (int32_t s = 0; s < batch.slice_count; s++) {
            struct attn_launch launch = batch_launch(&batch, s, NULL, 0);
            double flops = 0;
            double heaviest = 0;
            bool well = true;
            for (int32_t i = 0; i < launch.sequence_count; i++) {
                const struct attn_sequence *it = &launch.sequences[i];
                int r = request_of(&launch, i);
                launched[r][it->index]++;
                well &= it->q_first == 1000 * r + it->index;
                double own = attn_flops(&shape, it->q_len, it->k_len);
                flops += own;
                heaviest = own > heaviest ? own : heaviest;
            }
            ck_assert(well);
            ck_assert(flops <= slice_flops || flops == heaviest);
            ck_assert_int_eq(batch.slices[s].parts > 1, heaviest > part_flops);
            for (int r = 0; r < count; r++) {
                int32_t first;
                int32_t done = batch_completed(&batch, s, position_of(&batch, r), &first);
                ck_assert(done == 0 || first == reported[r]);
                reported[r] += done;
                ended[r] += batch_ends(&batch, s, position_of(&batch, r));
                ck_assert(!ended[r] || reported[r] == parts[r].sequence_count);
            }
        }
        for (int r = 0; r < count; r++) {
            ck_assert_int_eq(ended[r], 1);
            ck_assert_int_eq(reported[r], parts[r].sequence_count);
            bool once = true;
            for (int s = 0; s < parts[r].sequence_count; s++) {
                once &= launched[r][s] == 1;
            }
            ck_assert(once);
        }
    }
    batch_close(&batch);
}
END_TEST

START_TEST(light_requests_come_first)
{
    struct random random = random_open(4);
    struct batch batch;
    ck_assert(batch_open(&batch, REQUESTS, REQUESTS * SEQUENCES));
    for (int r = 0; r < REQUESTS; r++) {
        make_part(r, 1 + (int)random_below(&random, SEQUENCES), &random);
    }
    batch_layout(&batch, 1, &shape, parts, REQUESTS, &(struct batch_cut){1e6, 1e6});
    double before = 0;
    for (int32_t i = 0; i < batch.request_count; i++) {
        double flops = parts[batch.requests[i].slot - 100u].flops;
        ck_assert_double_ge(flops, before);
        before = flops;
    }
    batch_close(&batch);
}
END_TEST

START_TEST(a_request_without_sequences_ends_with_the_first_slice)
{
    struct random random = random_open(5);
    struct batch batch;
    ck_assert(batch_open(&batch, 2, SEQUENCES));
    make_part(0, 0, &random);
    batch_layout(&batch, 1, &shape, parts, 1, &(struct batch_cut){1e6, 1e6});
    ck_assert_int_eq(batch.slice_count, 1);
    ck_assert(batch_ends(&batch, 0, 0));
    ck_assert_int_eq(batch_launch(&batch, 0, NULL, 0).sequence_count, 0);
    batch_close(&batch);
}
END_TEST

START_TEST(a_dropped_request_leaves_later_slices_and_nobody_else_moves)
{
    struct random random = random_open(6);
    struct batch batch;
    ck_assert(batch_open(&batch, REQUESTS, REQUESTS * SEQUENCES));
    for (int round = 0; round < 200; round++) {
        for (int r = 0; r < REQUESTS; r++) {
            make_part(r, 1 + (int)random_below(&random, SEQUENCES), &random);
        }
        batch_layout(&batch, 1, &shape, parts, REQUESTS, &(struct batch_cut){2e7, 2e7});
        int victim = (int)random_below(&random, REQUESTS);
        int32_t from = (int32_t)random_below(&random, (uint64_t)batch.slice_count);
        struct batch_slice running = batch.slices[from > 0 ? from - 1 : 0];
        batch_drop(&batch, position_of(&batch, victim), from);
        if (from > 0) {
            ck_assert_mem_eq(&running, &batch.slices[from - 1], sizeof(running));
        }
        bool well = true;
        int launched = 0;
        int wanted = 0;
        for (int r = 0; r < REQUESTS; r++) {
            wanted += r == victim ? 0 : parts[r].sequence_count;
        }
        for (int32_t s = 0; s < batch.slice_count; s++) {
            struct attn_launch launch = batch_launch(&batch, s, NULL, 0);
            for (int32_t i = 0; i < launch.sequence_count; i++) {
                int r = request_of(&launch, i);
                well &= r != victim || s < from;
                well &= launch.sequences[i].q_first == 1000 * r + launch.sequences[i].index;
                launched += r != victim;
            }
        }
        ck_assert(well);
        ck_assert_int_eq(launched, wanted);
        int32_t first;
        ck_assert_int_eq(
            batch_completed(&batch, batch.slice_count - 1, position_of(&batch, victim), &first), 0);
    }
    batch_close(&batch);
}
END_TEST

static const struct check_row tests[] = {
    {"exactly once", &every_sequence_is_launched_once_and_reported_where_it_ran},
    {"light first", &light_requests_come_first},
    {"empty", &a_request_without_sequences_ends_with_the_first_slice},
    {"drop", &a_dropped_request_leaves_later_slices_and_nobody_else_moves},
};

CHECK_MAIN("batch", tests)
