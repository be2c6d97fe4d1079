/*
 * problem.h: a launch with everything that can go wrong around it, and an independent answer.
 *
 * Sets differ in layout. Rows lie between gap rows, strides leave holes, every byte that is not an
 * input's live element is 0xff, which is a NaN in every type, and so are all outputs and the
 * scratch before the run. The answer is the formulas of attn.h, element by element in fp64; it
 * shares no code with any kernel.
 */
#ifndef TESTS_KERNELS_PROBLEM_H
#define TESTS_KERNELS_PROBLEM_H

#include "kernels/attn.h"
#include "tests/kernels/element.h"

/* One sequence to place. Equal seeds and lengths have equal data, wherever they lie. */
struct item {
    int set;
    int q_len, k_len;
    int q_span, k_span; /* 0: as long as the length */
    unsigned seed;
};

enum { TENSOR_COUNT = 11 };

struct block {
    unsigned char *memory; /* with canaries on both sides */
    size_t bytes;
    unsigned char *before; /* inputs: a copy */
};

struct problem {
    struct attn_shape shape;
    int set_count, count;
    struct attn_set *sets;
    struct attn_sequence *sequences;
    struct item *items;
    struct block (*blocks)[TENSOR_COUNT]; /* per set, in the order of tensor_table in problem.c */
    struct block *sinks, *dsinks;
    /* Relative rounding of p and ds by a kernel that makes them operands of the input type, as
     * tensor cores want them; 0: it does not. For the caller to set. */
    double rounding;
    int parts; /* it is launched in so many; 0: whole. For the caller to set. */
};

/* A forward shape with a scale of 1/sqrt(d); the rest is for the caller to set. */
struct attn_shape shape_of(enum attn_dtype dtype, int hq, int hkv, int d, int dv);

/*
 * Places the items, row ranges in order, and fills the inputs. In the backward o and lse are
 * computed with fp64 math and rounded to the type (forward's answer), delta likewise.
 */
struct problem *problem_open(const struct attn_shape *shape, const struct item *items, int count);
void problem_close(struct problem *problem);

/* The inputs of sequence i become NaN and infinities, every row of its spans. Before the run; what
 * comes out for it is then no more to be checked. */
void problem_spoil(struct problem *problem, int i);

/* Scores rise towards a sequence's first keys, by 20 and then 100 more, for one row in four, half
 * of that for another, fall as much for a third: more than exp of fp32 holds. A forward, before the
 * run. */
void problem_steepen(struct problem *problem);

/* Runs it in poisoned scratch between canaries, and checks that nothing foreign was touched. */
void problem_run(struct problem *problem, struct attn_context *context);

/* The same by a row of the caller's choice. */
void problem_run_row(struct problem *problem, const struct attn_row *row,
                     struct attn_context *context);

/* Calls visit for the memory of each tensor: its rows from the first gap to the last. */
void problem_visit(const struct problem *problem,
                   void (*visit)(void *argument, void *memory, size_t bytes, int written),
                   void *argument);

/* Every output against the answer, every row of every span. */
void problem_check(const struct problem *problem);

/* The results of sequence i of one and j of the other are the same bits. */
void problem_check_same(const struct problem *a, int i, const struct problem *b, int j);

#endif
