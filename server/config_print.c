/* config_print.c: --print-config and --help, as the rows have it. */
#include <stdio.h>
#include <string.h>

#include "server/config_table.h"

/* Help, in lines of at most 96 columns behind `margin`. */
static void print_wrapped(FILE *out, const char *margin, const char *text)
{
    size_t width = 96 - strlen(margin);
    while (*text) {
        size_t length = strlen(text);
        if (length > width) {
            length = width;
            while (text[length] != ' ') {
                length--;
            }
        }
        fprintf(out, "%s%.*s\n", margin, (int)length, text);
        text += length + strspn(text + length, " ");
    }
}

void config_print(const struct config *config, FILE *out)
{
    char value[CONFIG_TEXT_BYTES_MAX];
    fputs(
        "# faserved's options: name = value, a # starts a comment. Flags of the same names win.\n",
        out);
    for (size_t i = 0; i < config_row_count; i++) {
        const char *section = config_section(&config_rows[i]);
        if (section) {
            fprintf(out, "\n# ---- %s ----\n", section);
        }
        option_format(&config_rows[i], config, value, sizeof(value));
        fputc('\n', out);
        print_wrapped(out, "# ", config_rows[i].help);
        fprintf(out, "%s =%s%s\n", config_rows[i].name, *value ? " " : "", value);
    }
}

void config_help(FILE *out)
{
    fputs("usage: faserved [--option=value ...]\n\n"
          "Computes attention, forward and backward, for whoever asks.\n\n",
          out);
    for (size_t i = 0; i < config_action_count; i++) {
        const char *argument = config_actions[i].argument ? config_actions[i].argument : "";
        fprintf(out, "  --%s%s%s\n", config_actions[i].flag, *argument ? " " : "", argument);
        print_wrapped(out, "        ", config_actions[i].help);
    }
    for (size_t i = 0; i < config_row_count; i++) {
        const char *section = config_section(&config_rows[i]);
        if (section) {
            fprintf(out, "\n%s:\n", section);
        }
        fprintf(out, "  --%s=%s\n", config_rows[i].name, config_rows[i].preset);
        print_wrapped(out, "        ", config_rows[i].help);
    }
}
