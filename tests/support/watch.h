/*
 * watch.h: what a live daemon says of itself, as its clients may ask.
 */
#ifndef TESTS_WATCH_H
#define TESTS_WATCH_H

#include "client/faserve.h"

/* A statistic by its name, or by how it ends (".arena_used_bytes"), as the device's name is the
 * build's: the first device's. The test fails where there is none, or no answer. */
double watch_stat(struct fas_client *client, const char *name);

/* What others held is noticed a moment after they went: waits for the value, 20 s at most, and
 * returns what it is then. */
double watch_for(struct fas_client *client, const char *name, double wanted);

#endif
