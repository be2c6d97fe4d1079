/*
 * token.c: the token file is read once; lines are judged strictly, because a mistyped one would
 * lock somebody out or in.
 */
#include "server/token.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TOKEN_LINE_BYTES_MAX 512u

/* Shorter ones can be guessed. */
#define TOKEN_BYTES_MIN 16u

static enum fas_status refuse(const char *path, unsigned line, const char *reason,
                              struct fas_error *error)
{
    return fas_fail(error, FAS_INVALID_ARGUMENT, "token-file", "%s:%u: %s", path, line, reason);
}

static enum fas_status parse_flags(struct token *token, char *rest, const char *path, unsigned line,
                                   struct fas_error *error)
{
    char *word, *end;
    while ((word = strsep(&rest, " \t"))) {
        if (strcmp(word, "admin") == 0) {
            token->admin = true;
        } else if (strncmp(word, "weight=", 7) == 0) {
            token->weight = strtod(word + 7, &end);
            if (*end != '\0' || !(token->weight >= 0.001 && token->weight <= 1000)) {
                return refuse(path, line, "weight is not a number in 0.001..1000", error);
            }
        } else if (word[0] != '\0') {
            return refuse(path, line, "expected: name token [admin] [weight=N]", error);
        }
    }
    return FAS_OK;
}

/* "name token [admin] [weight=N]" */
static enum fas_status parse_line(struct tokens *tokens, char *text, const char *path,
                                  unsigned line, struct fas_error *error)
{
    char *rest = text;
    char *name = strsep(&rest, " \t");
    char *secret = rest ? strsep(&rest, " \t") : NULL;
    if (!secret || strlen(secret) < TOKEN_BYTES_MIN || strlen(secret) > FAS_TOKEN_BYTES_MAX) {
        return refuse(path, line, "expected: name token, the token of 16 to 256 bytes", error);
    }
    if (strlen(name) >= sizeof tokens->entries[0].name) {
        return refuse(path, line, "the name is too long", error);
    }
    if (tokens->count == TOKENS_MAX) {
        return refuse(path, line, "too many tokens", error);
    }
    struct token *token = &tokens->entries[tokens->count++];
    *token = (struct token){.count = (uint32_t)strlen(secret), .weight = 1};
    snprintf(token->name, sizeof token->name, "%s", name);
    memcpy(token->bytes, secret, token->count);
    return parse_flags(token, rest, path, line, error);
}

static enum fas_status read_lines(struct tokens *tokens, FILE *file, const char *path,
                                  struct fas_error *error)
{
    char text[TOKEN_LINE_BYTES_MAX];
    enum fas_status status = FAS_OK;
    for (unsigned line = 1; status == FAS_OK && fgets(text, sizeof text, file); line++) {
        size_t length = strcspn(text, "\r\n");
        if (text[length] == '\0' && !feof(file)) {
            return refuse(path, line, "the line is too long", error);
        }
        text[length] = '\0';
        if (text[0] != '\0' && text[0] != '#') {
            status = parse_line(tokens, text, path, line, error);
        }
    }
    explicit_bzero(text, sizeof text);
    return status;
}

enum fas_status tokens_open(struct tokens *tokens, const char *path, struct fas_error *error)
{
    struct stat status;
    *tokens = (struct tokens){.entries = calloc(TOKENS_MAX, sizeof *tokens->entries)};
    FILE *file = fopen(path, "re");
    if (!file || !tokens->entries) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "token-file", "%s: %s", path, strerror(errno));
    }
    enum fas_status result;
    if (fstat(fileno(file), &status) != 0 || (status.st_mode & 077) != 0) {
        result = fas_fail(error, FAS_INVALID_ARGUMENT, "token-file",
                          "%s: others may read it; chmod 0600", path);
    } else {
        result = read_lines(tokens, file, path, error);
    }
    fclose(file);
    return result;
}

/* 0 if equal; the time depends on nothing but the lengths shown. */
static unsigned difference(const struct token *token, const uint8_t *bytes, uint32_t count)
{
    unsigned different = token->count ^ count;
    for (uint32_t i = 0; i < FAS_TOKEN_BYTES_MAX; i++) {
        uint8_t shown = i < count ? bytes[i] : 0;
        different |= (unsigned)(token->bytes[i] ^ shown);
    }
    return different;
}

const struct token *tokens_find(const struct tokens *tokens, const uint8_t *bytes, uint32_t count)
{
    const struct token *found = NULL;
    for (uint32_t i = 0; i < tokens->count; i++) {
        found = difference(&tokens->entries[i], bytes, count) == 0 ? &tokens->entries[i] : found;
    }
    return found;
}
