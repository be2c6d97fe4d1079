/*
 * principal.c: a table searched by name. There are at most connections + slots of them, and a
 * search happens once per connection, so it is a plain walk.
 */
#include "server/principal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool principals_open(struct principals *principals, uint32_t count)
{
    *principals = (struct principals){.count = count};
    principals->entries = calloc(count, sizeof(principals->entries[0]));
    return principals->entries != NULL;
}

void principals_close(struct principals *principals)
{
    free(principals->entries);
    *principals = (struct principals){0};
}

/* Of two absent ones, whose place goes to somebody new: nobody's, then the longest absent's. */
static bool more_vacant(const struct principal *a, const struct principal *b)
{
    return (a->name[0] == '\0') > (b->name[0] == '\0') ||
           ((a->name[0] == '\0') == (b->name[0] == '\0') && a->left < b->left);
}

uint32_t principal_take(struct principals *principals, const char *name, double weight, bool *fresh)
{
    uint32_t found = PRINCIPAL_NONE;
    *fresh = true;
    for (uint32_t i = 0; i < principals->count; i++) {
        const struct principal *principal = &principals->entries[i];
        if (strcmp(principal->name, name) == 0) {
            found = i;
            *fresh = false;
            break;
        }
        if (principal->references == 0 &&
            (found == PRINCIPAL_NONE || more_vacant(principal, &principals->entries[found]))) {
            found = i;
        }
    }
    if (found == PRINCIPAL_NONE) {
        return PRINCIPAL_NONE;
    }
    struct principal *principal = &principals->entries[found];
    if (*fresh) {
        *principal = (struct principal){0};
        snprintf(principal->name, sizeof(principal->name), "%s", name);
    }
    principal->weight = weight;
    principal->references++;
    return found;
}

void principal_keep(struct principals *principals, uint32_t principal)
{
    assert(principal < principals->count && principals->entries[principal].references > 0);
    principals->entries[principal].references++;
}

void principal_give(struct principals *principals, uint32_t principal)
{
    struct principal *entry = &principals->entries[principal];
    assert(principal < principals->count && entry->references > 0);
    if (--entry->references == 0) {
        entry->left = ++principals->departures;
    }
    assert((entry->references > 0 || entry->held.requests == 0) && "requests hold references");
}

/* Rules of admission, by what they compare; principal_uses has the numbers. */
static const struct rule {
    const char *field, *whose;
} rules[PRINCIPAL_USES] = {
    {"requests", "of all clients"}, {"requests", "of one client"}, {"bytes", "of one client"},
    {"tokens", "of all clients"},   {"flops", "of all clients"},
};

void principal_uses(const struct principals *principals, uint32_t principal,
                    const struct cost *cost, const struct principal_limits *limits,
                    struct retry_use uses[PRINCIPAL_USES])
{
    const struct cost *own = &principals->entries[principal].held;
    const struct cost *all = &principals->held;
    /* Counts under 2^53 are exact doubles. */
    uses[0] = (struct retry_use){all->requests, cost->requests, limits->all.requests};
    uses[1] = (struct retry_use){own->requests, cost->requests, limits->requests};
    uses[2] = (struct retry_use){(double)own->bytes, (double)cost->bytes, (double)limits->bytes};
    uses[3] =
        (struct retry_use){(double)all->tokens, (double)cost->tokens, (double)limits->all.tokens};
    uses[4] = (struct retry_use){all->flops, cost->flops, limits->all.flops};
}

enum fas_status principal_admit(struct principals *principals, uint32_t principal,
                                const struct cost *cost, const struct principal_limits *limits,
                                struct fas_error *error)
{
    struct retry_use uses[PRINCIPAL_USES];
    principal_uses(principals, principal, cost, limits, uses);
    for (size_t i = 0; i < PRINCIPAL_USES; i++) {
        const struct retry_use *use = &uses[i];
        if (use->wanted > use->limit) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, rules[i].field,
                            "%.0f asked for, the limit %s is %.0f", use->wanted, rules[i].whose,
                            use->limit);
        }
        if (use->held + use->wanted > use->limit) {
            return fas_fail(error, FAS_RESOURCE_EXHAUSTED, rules[i].field,
                            "%.0f asked for and %.0f held, the limit %s is %.0f", use->wanted,
                            use->held, rules[i].whose, use->limit);
        }
    }
    cost_add(&principals->entries[principal].held, cost);
    cost_add(&principals->held, cost);
    return FAS_OK;
}

void principal_release(struct principals *principals, uint32_t principal, const struct cost *cost)
{
    struct cost *own = &principals->entries[principal].held;
    assert(own->requests >= cost->requests && own->bytes >= cost->bytes && "what was admitted");
    cost_sub(own, cost);
    cost_sub(&principals->held, cost);
}

void principal_serve(struct principals *principals, uint32_t principal, const struct cost *cost)
{
    struct principal_work *served = &principals->entries[principal].served;
    served->requests += cost->requests;
    served->tokens += (double)cost->tokens;
    served->flops += cost->flops;
}
