/*
 * table.c: see table.h.
 */
#include "client/fasctl/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CELL_BYTES 120
#define COLUMNS_MAX 24

struct table {
    int columns, cells, room;
    char (*text)[CELL_BYTES];
};

static char *table_next(struct table *table)
{
    if (table->cells == table->room) {
        int room = table->room ? 2 * table->room : 256;
        char(*text)[CELL_BYTES] = realloc(table->text, (size_t)room * CELL_BYTES);
        if (!text) {
            abort();
        }
        table->text = text;
        table->room = room;
    }
    return table->text[table->cells++];
}

struct table *table_open(const char *columns)
{
    struct table *table = calloc(1, sizeof(*table));
    if (!table) {
        abort();
    }
    for (bool more = true; more && table->columns < COLUMNS_MAX;) {
        size_t length = strcspn(columns, "|");
        snprintf(table_next(table), CELL_BYTES, "%.*s", (int)length, columns);
        table->columns++;
        more = columns[length] == '|';
        columns += length + more;
    }
    return table;
}

void table_cell(struct table *table, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(table_next(table), CELL_BYTES, format, arguments);
    va_end(arguments);
}

void table_print(struct table *table)
{
    int widths[COLUMNS_MAX] = {0};
    for (int i = 0; i < table->cells; i++) {
        int width = (int)strlen(table->text[i]), *widest = &widths[i % table->columns];
        *widest = width > *widest ? width : *widest;
    }
    for (int i = 0; i < table->cells; i++) {
        int column = i % table->columns;
        printf("%*s%s", column == 0 ? -widths[0] : widths[column] + 2, table->text[i],
               column + 1 == table->columns ? "\n" : "");
    }
    free(table->text);
    free(table);
}

const char *table_us(double us)
{
    static _Thread_local char texts[8][24];
    static _Thread_local unsigned next;
    char *text = texts[next++ % 8];
    if (us < 1000) {
        snprintf(text, sizeof(texts[0]), "%.0f us", us);
    } else if (us < 1e6) {
        snprintf(text, sizeof(texts[0]), "%.1f ms", us * 1e-3);
    } else {
        snprintf(text, sizeof(texts[0]), "%.2f s", us * 1e-6);
    }
    return text;
}

const char *table_plural(double count)
{
    return count == 1 ? "" : "s";
}
