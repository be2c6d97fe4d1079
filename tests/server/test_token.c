/* The token file is read strictly, and found tokens are exact. */
#include "server/token.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/check_main.h"

static enum fas_status open_text(struct tokens *tokens, const char *text, mode_t mode,
                                 struct fas_error *error)
{
    char path[] = "/tmp/faserved-token-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    fchmod(fd, mode);
    close(fd);
    enum fas_status status = tokens_open(tokens, path, error);
    unlink(path);
    return status;
}

#define SECRET "0123456789abcdef"

static const struct token *find(const struct tokens *tokens, const char *text)
{
    return tokens_find(tokens, (const uint8_t *)text, (uint32_t)strlen(text));
}

START_TEST(tokens_are_found_exactly)
{
    struct tokens tokens;
    struct fas_error error;
    ck_assert_int_eq(open_text(&tokens,
                               "# who what\n\na " SECRET "\n"
                               "b " SECRET "0 admin weight=2.5\n",
                               0600, &error),
                     FAS_OK);
    ck_assert_str_eq(find(&tokens, SECRET)->name, "a");
    ck_assert(find(&tokens, SECRET "0")->admin);
    ck_assert_double_eq(find(&tokens, SECRET "0")->weight, 2.5);
    ck_assert_ptr_null(find(&tokens, SECRET "1"));
    ck_assert_ptr_null(find(&tokens, "0123456789abcde"));
    ck_assert_ptr_null(find(&tokens, ""));
    free(tokens.entries);
}
END_TEST

START_TEST(a_file_others_can_read_is_refused)
{
    struct tokens tokens;
    struct fas_error error;
    ck_assert_int_ne(open_text(&tokens, "a " SECRET "\n", 0640, &error), FAS_OK);
    ck_assert_str_eq(error.field, "token-file");
    free(tokens.entries);
}
END_TEST

START_TEST(a_mistyped_line_is_refused_by_number)
{
    static const char *const lines[] = {"a\n",
                                        "a short\n",
                                        "a " SECRET " root\n",
                                        "a " SECRET " weight=x\n",
                                        "a " SECRET " weight=0\n",
                                        "a " SECRET " weight=nan\n"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct tokens tokens;
        struct fas_error error;
        char text[256];
        snprintf(text, sizeof text, "# first\n%s", lines[i]);
        ck_assert_int_ne(open_text(&tokens, text, 0600, &error), FAS_OK);
        ck_assert_ptr_nonnull(strstr(error.text, ":2:"));
        ck_assert_ptr_null(strstr(error.text, SECRET));
        free(tokens.entries);
    }
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"exact", &tokens_are_found_exactly},
        {"mode", &a_file_others_can_read_is_refused},
        {"lines", &a_mistyped_line_is_refused_by_number},
    };
    return check_main("token", rows, sizeof rows / sizeof rows[0]);
}
