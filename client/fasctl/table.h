/*
 * table.h: rows of text, printed with columns as wide as they need. The first column leans left,
 * the others right.
 */
#ifndef FASCTL_TABLE_H
#define FASCTL_TABLE_H

struct table;

/* columns: "document|tokens|o"; a name may be empty. */
struct table *table_open(const char *columns);
/* Fills the next cell, row after row. */
void table_cell(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints to stdout and frees. */
void table_print(struct table *table);

/* A duration in a form for people: "730 us", "12.5 ms", "3.1 s". The text is valid until this
 * thread's eighth call after. */
const char *table_us(double us);

/* The end of a noun of which there are so many: "" or "s". */
const char *table_plural(double count);

#endif
