/*
 * token.h: who a token is. The token file has one line per token:
 *
 *   name token [admin] [weight=2.5]
 *
 * It must be readable by its owner only (mode 0600 or less), or it is refused. Tokens are compared
 * in constant time and never logged. Read once, at start.
 */
#ifndef SERVER_TOKEN_H
#define SERVER_TOKEN_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/status.h"

#define TOKENS_MAX 256u

struct token {
    char name[FAS_NAME_BYTES_MAX - 8]; /* "token:NAME" is the principal's name */
    uint8_t bytes[FAS_TOKEN_BYTES_MAX];
    uint32_t count;
    bool admin;
    double weight;
};

struct tokens {
    struct token *entries;
    uint32_t count;
};

enum fas_status tokens_open(struct tokens *tokens, const char *path, struct fas_error *error);

/* The token that matches, or NULL. Takes the same time whichever matches. */
const struct token *tokens_find(const struct tokens *tokens, const uint8_t *bytes, uint32_t count);

#endif
