/* Where DATA goes, and what of it is refused. */
#include "server/route.h"

#include "tests/support/check_main.h"

#define CHUNK (64u << 10)
#define ROUTES 4u

static struct route routes[ROUTES];
static struct route_table table;
static uint64_t claimed[ROUTE_BITMAP_WORDS];
static uint8_t memory[3 * CHUNK];

static void setup(void)
{
    table = (struct route_table){.routes = routes, .count = ROUTES, .chunk_bytes = CHUNK};
    for (uint32_t i = 0; i < ROUTES; i++) {
        routes[i] = (struct route){0};
    }
    claimed[0] = 0;
}

/* Request 7: q of two chunks and a half, v of one byte. */
static void open_seven(void)
{
    const struct route_tensor tensors[FAS_TENSOR_COUNT] = {
        [FAS_Q] = {memory, 2 * CHUNK + CHUNK / 2, 0},
        [FAS_V] = {memory + 2 * CHUNK + CHUNK / 2, 1, 3}};
    ck_assert(route_begin(&table, 7));
    route_open(&table, 7, tensors, claimed);
}

static enum route_answer data(uint64_t request, uint16_t tensor, uint32_t chunk, uint64_t bytes,
                              uint8_t **place)
{
    const char *text = NULL;
    struct frame frame = {.type = FRAME_DATA,
                          .flags = tensor,
                          .request = request,
                          .chunk = chunk,
                          .payload_bytes = bytes};
    enum route_answer answer = route_data(&table, &frame, 0, place, &text);
    ck_assert_int_eq(answer == ROUTE_REFUSE, text != NULL);
    return answer;
}

START_TEST(chunks_land_behind_one_another_in_any_order)
{
    uint8_t *place = NULL;
    setup();
    open_seven();
    ck_assert_int_eq(data(7, FAS_Q, 2, CHUNK / 2, &place), ROUTE_LAND);
    ck_assert_ptr_eq(place, memory + 2 * CHUNK);
    ck_assert_int_eq(data(7, FAS_Q, 0, CHUNK, &place), ROUTE_LAND);
    ck_assert_ptr_eq(place, memory);
    ck_assert_int_eq(data(7, FAS_V, 0, 1, &place), ROUTE_LAND);
    ck_assert_ptr_eq(place, memory + 2 * CHUNK + CHUNK / 2);
    ck_assert_int_eq(data(7, FAS_Q, 1, CHUNK, &place), ROUTE_LAND);
    ck_assert_ptr_eq(place, memory + CHUNK);
}
END_TEST

START_TEST(double_late_short_and_foreign_chunks_are_refused)
{
    uint8_t *place;
    setup();
    open_seven();
    ck_assert_int_eq(data(7, FAS_Q, 0, CHUNK, &place), ROUTE_LAND);
    ck_assert_int_eq(data(7, FAS_Q, 0, CHUNK, &place), ROUTE_REFUSE);
    ck_assert_int_eq(data(7, FAS_Q, 1, CHUNK - 1, &place), ROUTE_REFUSE);
    ck_assert_int_eq(data(7, FAS_Q, 2, CHUNK, &place), ROUTE_REFUSE);
    ck_assert_int_eq(data(7, FAS_Q, 3, 1, &place), ROUTE_REFUSE);
    ck_assert_int_eq(data(7, FAS_Q, UINT32_MAX, 1, &place), ROUTE_REFUSE);
    ck_assert_int_eq(data(7, FAS_K, 0, 1, &place), ROUTE_REFUSE);
    ck_assert_int_eq(data(7, UINT16_MAX, 0, 1, &place), ROUTE_REFUSE);
}
END_TEST

START_TEST(the_loop_answers_before_data_is_read)
{
    uint8_t *place;
    setup();
    ck_assert_int_eq(data(7, FAS_Q, 0, 1, &place), ROUTE_UNKNOWN);
    ck_assert(route_begin(&table, 7));
    ck_assert_int_eq(data(7, FAS_Q, 0, 1, &place), ROUTE_WAIT);
    route_close(&table, 7);
    ck_assert_int_eq(data(7, FAS_Q, 0, 1, &place), ROUTE_DROP);
}
END_TEST

START_TEST(an_id_is_free_again_when_its_request_is_over)
{
    setup();
    open_seven();
    ck_assert(!route_begin(&table, 7));
    route_close(&table, 7);
    ck_assert(route_begin(&table, 7));
}
END_TEST

START_TEST(the_oldest_finished_request_is_forgotten_first)
{
    uint8_t *place;
    setup();
    for (uint64_t id = 1; id <= ROUTES + 1; id++) {
        ck_assert(route_begin(&table, id));
        route_close(&table, id);
    }
    ck_assert_int_eq(data(1, FAS_Q, 0, 1, &place), ROUTE_UNKNOWN);
    ck_assert_int_eq(data(2, FAS_Q, 0, 1, &place), ROUTE_DROP);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"land", &chunks_land_behind_one_another_in_any_order},
        {"refuse", &double_late_short_and_foreign_chunks_are_refused},
        {"order", &the_loop_answers_before_data_is_read},
        {"reuse", &an_id_is_free_again_when_its_request_is_over},
        {"forget", &the_oldest_finished_request_is_forgotten_first},
    };
    return check_main("route", rows, sizeof rows / sizeof rows[0]);
}
