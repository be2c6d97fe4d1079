/*
 * texts.h: real texts of this machine as documents of tokens, and as q, k, v of an attention layer.
 *
 * A token is a run of letters and digits, or one other visible character: about what a tokenizer
 * gives, some four bytes each. Tokens hash to rows of a seeded embedding; seeded projections, like
 * those of a trained layer in scale, turn rows plus a rotary-free position term into heads.
 */
#ifndef FASCTL_TEXTS_H
#define FASCTL_TEXTS_H

#include <stdbool.h>
#include <stdint.h>

#define TEXT_NAME_BYTES 48

struct text {
    char name[TEXT_NAME_BYTES];
    int64_t bytes;
    int32_t tokens;
    uint32_t *ids; /* tokens of them */
};

struct texts {
    struct text *items;
    int count;
};

/*
 * The licenses every Debian has, and `small` short package notices of a few hundred bytes; or, with
 * `folder`, the readable files in it. Files over bytes_max are left out. False: none was found.
 */
bool texts_open(struct texts *texts, const char *folder, int small, int64_t bytes_max);
void texts_close(struct texts *texts);

/* What a layer's projections have in common. */
struct projection;

/* hidden -> heads * width, for one of q, k, v: `which` seeds it apart from the others. */
struct projection *projection_open(uint64_t seed, int which, int heads, int width);
void projection_close(struct projection *projection);

/* Token `id` at `position` -> heads * width bf16 numbers. */
void projection_row(const struct projection *projection, uint32_t id, int32_t position,
                    uint16_t *out);

#endif
