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

/* One line of the rules below: what is held, what is asked for, how much there may be. */
struct rule {
    const char *field, *whose;
    double held, wanted, limit; /* counts under 2^53: exact */
};

enum fas_status principal_admit(struct principals *principals, uint32_t principal,
                                const struct cost *cost, const struct principal_limits *limits,
                                struct fas_error *error)
{
    struct cost *own = &principals->entries[principal].held;
    struct cost *all = &principals->held;
    const struct rule rules[] = {
        {"requests", "of all clients", all->requests, cost->requests, limits->all.requests},
        {"requests", "of one client", own->requests, cost->requests, limits->requests},
        {"bytes", "of one client", (double)own->bytes, (double)cost->bytes, (double)limits->bytes},
        {"tokens", "of all clients", (double)all->tokens, (double)cost->tokens,
         (double)limits->all.tokens},
        {"flops", "of all clients", all->flops, cost->flops, limits->all.flops},
    };
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        const struct rule *rule = &rules[i];
        if (rule->wanted > rule->limit) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, rule->field,
                            "%.0f asked for, the limit %s is %.0f", rule->wanted, rule->whose,
                            rule->limit);
        }
        if (rule->held + rule->wanted > rule->limit) {
            return fas_fail(error, FAS_RESOURCE_EXHAUSTED, rule->field,
                            "%.0f asked for and %.0f held, the limit %s is %.0f", rule->wanted,
                            rule->held, rule->whose, rule->limit);
        }
    }
    cost_add(own, cost);
    cost_add(all, cost);
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
