/*
 * demo.c: fasctl demo: real texts through the daemon, forward and backward, as several requests at
 * once; then the same attention in this process in fp32, and a table of how far apart they are.
 * Exit 0 only if every tensor of every document is within the tolerance rule:
 *
 *     max|x - ref| <= 2 max|low - ref| + two rounding steps of bf16        (lse: 1e-3)
 */
#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/fasctl/clock.h"
#include "client/fasctl/fasctl.h"
#include "client/fasctl/numbers.h"
#include "client/fasctl/progress.h"
#include "client/fasctl/reference.h"
#include "client/fasctl/table.h"
#include "client/fasctl/texts.h"

enum { HQ = 8, HKV = 2, D = REFERENCE_D };

#define LSE_TOLERANCE 1e-3

/* What is compared, in the order of the table. */
enum { CHECK_O, CHECK_LSE, CHECK_DQ, CHECK_DK, CHECK_DV, CHECK_COUNT };

static const struct check {
    enum fas_tensor tensor;
    int heads, width;
} checks[CHECK_COUNT] = {
    {FAS_O, HQ, D}, {FAS_LSE, HQ, 1}, {FAS_DQ, HQ, D}, {FAS_DK, HKV, D}, {FAS_DV, HKV, D},
};

/* Several documents, packed: one request of each pass. */
struct batch_request {
    int documents;
    int32_t *cu_seqlens;
    int64_t rows;
    void *tensors[FAS_TENSOR_COUNT];
    struct fas_report forward, backward;
};

struct document {
    const struct text *text;
    struct batch_request *in;
    int64_t first_row;
    double error[CHECK_COUNT], limit[CHECK_COUNT];
};

struct demo {
    struct texts texts;
    struct document *documents;
    struct batch_request *requests;
    int request_count;
    uint64_t seed;
    struct fas_client *client;
    struct progress *progress;
    atomic_int next; /* document for the checking threads */
    double seconds_service, seconds_check;
};

/* ---- documents to requests ---- */

static int longer_first(const void *a, const void *b)
{
    const struct text *x = a, *y = b;
    return (x->tokens < y->tokens) - (x->tokens > y->tokens);
}

static bool request_alloc(struct batch_request *request)
{
    const struct fas_dims dims = {FAS_BF16, HQ, HKV, D, D, request->rows, request->rows};
    for (int tensor = FAS_Q; tensor <= FAS_DV; tensor++) {
        uint64_t bytes = fas_tensor_bytes(&dims, (enum fas_tensor)tensor);
        request->tensors[tensor] = malloc(bytes);
        if (!request->tensors[tensor]) {
            return false;
        }
        memset(request->tensors[tensor], 0xff, bytes); /* NaN: nothing passes by luck */
    }
    return true;
}

/* By length: the first requests are long, and the last, of short documents, share batches. */
static bool demo_deal(struct demo *demo)
{
    int count = demo->texts.count;
    demo->request_count = demo->request_count < count ? demo->request_count : count;
    assert(demo->request_count > 0);
    demo->documents = calloc((size_t)count, sizeof(*demo->documents));
    demo->requests = calloc((size_t)demo->request_count, sizeof(*demo->requests));
    if (!demo->documents || !demo->requests) {
        return false;
    }
    qsort(demo->texts.items, (size_t)count, sizeof(*demo->texts.items), longer_first);
    for (int i = 0; i < demo->request_count; i++) {
        demo->requests[i].cu_seqlens = calloc((size_t)count + 1, sizeof(int32_t));
        if (!demo->requests[i].cu_seqlens) {
            return false;
        }
    }
    for (int i = 0; i < count; i++) {
        struct batch_request *request = &demo->requests[i * demo->request_count / count];
        struct document *document = &demo->documents[i];
        document->text = &demo->texts.items[i];
        document->in = request;
        document->first_row = request->rows;
        request->rows += document->text->tokens;
        request->cu_seqlens[++request->documents] = (int32_t)request->rows;
    }
    for (int i = 0; i < demo->request_count; i++) {
        if (!request_alloc(&demo->requests[i])) {
            return false;
        }
    }
    return true;
}

/* q, k, v of every token, and the gradient that would come from the layer above. */
static bool demo_project(struct demo *demo)
{
    static const struct {
        enum fas_tensor tensor;
        int heads;
    } rows[] = {{FAS_Q, HQ}, {FAS_K, HKV}, {FAS_V, HKV}, {FAS_DO, HQ}};
    for (int which = 0; which < 4; which++) {
        struct projection *p = projection_open(demo->seed, which, rows[which].heads, D);
        if (!p) {
            return false;
        }
        int64_t width = (int64_t)rows[which].heads * D;
        for (int i = 0; i < demo->texts.count; i++) {
            const struct document *document = &demo->documents[i];
            uint16_t *to = document->in->tensors[rows[which].tensor];
            for (int32_t token = 0; token < document->text->tokens; token++) {
                projection_row(p, document->text->ids[token], token,
                               to + (document->first_row + token) * width);
            }
        }
        projection_close(p);
    }
    return true;
}

/* ---- through the daemon ---- */

static struct fas_request request_of(const struct batch_request *from, enum fas_pass pass)
{
    struct fas_request request = {
        .pass = pass,
        .dims = {FAS_BF16, HQ, HKV, D, D, from->rows, from->rows},
        .batch = from->documents,
        .q = {.cu_seqlens = from->cu_seqlens},
        .k = {.cu_seqlens = from->cu_seqlens},
        .mask = {.has_right = true, .right = 0},
    };
    for (int tensor = FAS_Q; tensor <= FAS_DV; tensor++) {
        request.tensors[tensor].data = from->tensors[tensor];
    }
    return request;
}

static void on_progress(struct fas_call *call, int32_t first, int32_t count, void *context)
{
    (void)call, (void)first;
    progress_step(context, count);
}

/* All requests of a pass at once; their reports are filled. False: one failed, and it was said. */
static bool demo_pass(struct demo *demo, enum fas_pass pass)
{
    struct fas_call **calls = calloc((size_t)demo->request_count, sizeof(struct fas_call *));
    bool good = calls != NULL;
    for (int i = 0; good && i < demo->request_count; i++) {
        struct fas_request request = request_of(&demo->requests[i], pass);
        struct fas_error error;
        request.on_progress = on_progress;
        request.context = demo->progress;
        good = fas_submit(demo->client, &request, &calls[i], &error) == FAS_OK;
        if (!good) {
            complain(pass == FAS_FORWARD ? "forward" : "backward", &error);
        }
    }
    for (int i = 0; calls && i < demo->request_count && calls[i]; i++) {
        struct batch_request *request = &demo->requests[i];
        struct fas_report *report = pass == FAS_FORWARD ? &request->forward : &request->backward;
        fas_wait(calls[i], -1);
        *report = *fas_call_report(calls[i]);
        fas_call_close(calls[i]);
        if (report->error.status != FAS_OK) {
            complain(pass == FAS_FORWARD ? "forward" : "backward", &report->error);
            good = false;
        }
    }
    free(calls);
    return good;
}

/* ---- the judge ---- */

struct judged {
    float *of[CHECK_COUNT];
};

static struct judged judged_alloc(int32_t tokens)
{
    struct judged judged;
    for (int i = 0; i < CHECK_COUNT; i++) {
        judged.of[i] = malloc(sizeof(float) * (size_t)tokens * (size_t)checks[i].heads *
                              (size_t)checks[i].width);
        if (!judged.of[i]) {
            abort();
        }
    }
    return judged;
}

static void judged_free(struct judged *judged)
{
    for (int i = 0; i < CHECK_COUNT; i++) {
        free(judged->of[i]);
    }
}

static struct reference_output output_of(const struct judged *judged)
{
    return (struct reference_output){judged->of[CHECK_O], judged->of[CHECK_LSE],
                                     judged->of[CHECK_DQ], judged->of[CHECK_DK],
                                     judged->of[CHECK_DV]};
}

/* What the daemon returned for element i of the document's tensor. */
static double returned(const struct document *document, int check, int64_t i)
{
    const struct batch_request *request = document->in;
    const void *data = request->tensors[checks[check].tensor];
    if (check == CHECK_LSE) { /* (heads, rows of the request) */
        int64_t head = i / document->text->tokens, row = i % document->text->tokens;
        return ((const float *)data)[head * request->rows + document->first_row + row];
    }
    int64_t row_elements = (int64_t)checks[check].heads * checks[check].width;
    return number_from_bf16(((const uint16_t *)data)[document->first_row * row_elements + i]);
}

/* Two roundings to bf16's 8 bits, of numbers up to `magnitude`. */
static double two_rounding_steps(double magnitude)
{
    return magnitude > 0 ? 2 * ldexp(1.0, ilogb(magnitude) - 8) : 0;
}

/* `low` holds only the first kv head's group: its largest distance bounds that of all from below.
 */
static void document_compare(struct document *document, int check, const float *ref,
                             const float *low)
{
    int32_t tokens = document->text->tokens;
    int64_t heads = checks[check].heads, width = checks[check].width;
    double error = 0, low_error = 0, magnitude = 0;
    for (int64_t i = 0; i < tokens * heads * width; i++) {
        int64_t head = check == CHECK_LSE ? i / tokens : (i / width) % heads;
        double distance = fabs(returned(document, check, i) - ref[i]);
        error = distance <= error ? error : distance; /* NaN gets in, and stays */
        magnitude = fmax(magnitude, fabs((double)ref[i]));
        if (head < heads / HKV) {
            low_error = fmax(low_error, fabs((double)low[i] - ref[i]));
        }
    }
    document->error[check] = error;
    document->limit[check] =
        check == CHECK_LSE ? LSE_TOLERANCE : 2 * low_error + two_rounding_steps(magnitude);
}

static void document_check(const struct demo *demo, struct document *document)
{
    const struct batch_request *request = document->in;
    const uint16_t *const q = request->tensors[FAS_Q], *const k = request->tensors[FAS_K];
    const uint16_t *const v = request->tensors[FAS_V], *const d_o = request->tensors[FAS_DO];
    int64_t at_q = document->first_row * HQ * D, at_k = document->first_row * HKV * D;
    const struct reference_input in = {
        document->text->tokens, HQ, HKV, q + at_q, k + at_k, v + at_k, d_o + at_q};
    struct judged ref = judged_alloc(in.tokens), low = judged_alloc(in.tokens);
    struct reference_output ref_out = output_of(&ref), low_out = output_of(&low);
    double work = (double)in.tokens * in.tokens;
    for (int32_t head = 0; head < HKV; head++) {
        reference_head(&in, head, false, &ref_out);
        progress_step(demo->progress, work);
    }
    reference_head(&in, 0, true, &low_out);
    progress_step(demo->progress, work);
    for (int check = 0; check < CHECK_COUNT; check++) {
        document_compare(document, check, ref.of[check], low.of[check]);
    }
    judged_free(&ref);
    judged_free(&low);
}

static void *check_thread(void *context)
{
    struct demo *demo = context;
    int i;
    while ((i = atomic_fetch_add(&demo->next, 1)) < demo->texts.count) {
        document_check(demo, &demo->documents[i]);
    }
    return NULL;
}

static void demo_check(struct demo *demo)
{
    pthread_t threads[64];
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int count = processors > 64 ? 64 : (int)processors, started = 0;
    while (started < count - 1 &&
           pthread_create(&threads[started], NULL, check_thread, demo) == 0) {
        started++;
    }
    check_thread(demo);
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
}

/* ---- what people see ---- */

static bool within(const struct document *document, int check)
{
    return document->error[check] <= document->limit[check]; /* false for NaN */
}

/* Errors as parts of what the tolerance rule allows: 1 is the limit. */
static bool print_documents(const struct demo *demo)
{
    struct table *table = table_open("document|bytes|tokens|o|lse|dq|dk|dv|of allowed|");
    bool good = true;
    for (int i = 0; i < demo->texts.count; i++) {
        const struct document *document = &demo->documents[i];
        double worst = 0;
        bool all = true;
        table_cell(table, "%s", document->text->name);
        table_cell(table, "%lld", (long long)document->text->bytes);
        table_cell(table, "%d", document->text->tokens);
        for (int check = 0; check < CHECK_COUNT; check++) {
            table_cell(table, "%.1e", document->error[check]);
            worst = fmax(worst, document->error[check] / document->limit[check]);
            all &= within(document, check);
        }
        table_cell(table, "%.0f %%", 100 * worst);
        table_cell(table, "%s", all ? "ok" : "OUT OF TOLERANCE");
        good &= all;
    }
    table_print(table);
    return good;
}

static void print_request(struct table *table, const struct batch_request *request,
                          const char *pass, const struct fas_report *report)
{
    char places[64] = "";
    for (int place = 0; place < FAS_PLACE_COUNT; place++) {
        if (report->places & (1u << place)) {
            snprintf(places + strlen(places), sizeof(places) - strlen(places), "%s%s",
                     places[0] ? "+" : "", fas_place_name((enum fas_place)place));
        }
    }
    table_cell(table, "%s", pass);
    table_cell(table, "%d", request->documents);
    table_cell(table, "%lld", (long long)request->rows);
    table_cell(table, "%s", table_us((double)report->queue_us));
    table_cell(table, "%s", table_us((double)report->copy_in_us));
    table_cell(table, "%s", table_us((double)report->compute_us));
    table_cell(table, "%s", table_us((double)report->copy_out_us));
    table_cell(table, "%s", table_us((double)report->client_us));
    table_cell(table, "%u", report->batch_requests);
    table_cell(table, "%u", report->batch_sequences);
    table_cell(table, "%s", places);
    table_cell(table, "%s", report->device);
    table_cell(table, "%s", report->kernel);
}

static void print_requests(const struct demo *demo)
{
    struct table *table =
        table_open("request|documents|tokens|queue|copy in|compute|copy out|in all|batched with|"
                   "sequences|place|device|kernel");
    for (int i = 0; i < demo->request_count; i++) {
        print_request(table, &demo->requests[i], "forward", &demo->requests[i].forward);
    }
    for (int i = 0; i < demo->request_count; i++) {
        print_request(table, &demo->requests[i], "backward", &demo->requests[i].backward);
    }
    table_print(table);
}

static bool print_all(const struct demo *demo)
{
    int64_t tokens = 0;
    unsigned batch_max = 0;
    for (int i = 0; i < demo->request_count; i++) {
        const struct batch_request *request = &demo->requests[i];
        unsigned forward = request->forward.batch_requests,
                 backward = request->backward.batch_requests;
        tokens += request->rows;
        batch_max = forward > batch_max ? forward : batch_max;
        batch_max = backward > batch_max ? backward : batch_max;
    }
    printf("%d document%s, %lld tokens; causal, %d heads over %d, d %d, bf16; %s at %s\n\n",
           demo->texts.count, table_plural(demo->texts.count), (long long)tokens, HQ, HKV, D,
           fas_server(demo->client)->name, target.url);
    bool good = print_documents(demo);
    printf("(largest distance from fp32 computed in this process)\n\n");
    print_requests(demo);
    printf("\n%d request%s at once, %.2f s in the daemon for both passes; up to %u in one batch; "
           "checked in %.1f s\n",
           demo->request_count, table_plural(demo->request_count), demo->seconds_service, batch_max,
           demo->seconds_check);
    printf("%s\n", good ? "all within tolerance" : "NOT within tolerance");
    return good;
}

/* ---- the story ---- */

static double work_of(const struct demo *demo)
{
    double work = 0;
    for (int i = 0; i < demo->texts.count; i++) {
        work += (double)demo->texts.items[i].tokens * demo->texts.items[i].tokens;
    }
    return work * (HKV + 1);
}

static bool demo_serve(struct demo *demo)
{
    uint64_t begin_ns = clock_ns();
    demo->progress = progress_open("daemon  ", 2.0 * demo->texts.count);
    bool good = demo_pass(demo, FAS_FORWARD) && demo_pass(demo, FAS_BACKWARD);
    progress_close(demo->progress);
    demo->seconds_service = clock_seconds(begin_ns);
    return good;
}

static bool demo_run(struct demo *demo)
{
    if (!demo_deal(demo) || !demo_project(demo)) {
        fprintf(stderr, "fasctl: out of memory\n");
        return false;
    }
    if (!demo_serve(demo)) {
        return false;
    }
    uint64_t begin_ns = clock_ns();
    demo->progress = progress_open("checking", work_of(demo));
    demo_check(demo);
    progress_close(demo->progress);
    demo->seconds_check = clock_seconds(begin_ns);
    return print_all(demo);
}

static void demo_free(struct demo *demo)
{
    for (int i = 0; demo->requests && i < demo->request_count; i++) {
        for (int tensor = 0; tensor < FAS_TENSOR_COUNT; tensor++) {
            free(demo->requests[i].tensors[tensor]);
        }
        free(demo->requests[i].cu_seqlens);
    }
    free(demo->requests);
    free(demo->documents);
    texts_close(&demo->texts);
}

int command_demo(int argc, char **argv)
{
    const char *texts = NULL;
    int64_t requests = 12, seed = 1, small = 18, bytes_max = 64 << 10;
    const struct option_row rows[] = {
        {"texts", OPTION_TEXT, &texts, "FOLDER", "its files are the documents", 0, 0},
        {"notices", OPTION_INT, &small, "N", "short package notices beside the licenses (18)", 0,
         1000},
        {"bytes-max", OPTION_INT, &bytes_max, "N", "longest document (65536)", 1, 1e9},
        {"requests", OPTION_INT, &requests, "N", "documents are dealt to so many (12)", 1, 64},
        {"seed", OPTION_INT, &seed, "N", "of the embedding and the projections (1)", 0, 0},
        TARGET_ROWS,
        {0}};
    int code;
    if (!command_options("demo [OPTIONS]", rows, argc, argv, &code)) {
        return code;
    }
    struct demo demo = {.request_count = (int)requests, .seed = (uint64_t)seed};
    if (!texts_open(&demo.texts, texts, (int)small, bytes_max)) {
        fprintf(stderr, "fasctl: no texts in %s\n", texts ? texts : "the usual places");
        texts_close(&demo.texts);
        return EXIT_FAILED;
    }
    demo.client = target_connect((uint32_t)requests, 1);
    if (!demo.client) {
        texts_close(&demo.texts);
        return EXIT_NO_SERVER;
    }
    bool good = demo_run(&demo);
    fas_close(demo.client);
    demo_free(&demo);
    return good ? EXIT_OK : EXIT_FAILED;
}
