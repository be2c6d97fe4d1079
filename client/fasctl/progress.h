/*
 * progress.h: a bar on stderr while work is long, where stderr is a terminal; nothing otherwise.
 */
#ifndef FASCTL_PROGRESS_H
#define FASCTL_PROGRESS_H

struct progress;

/* Draws at most ten times a second, and only from the second tenth on. Any thread may step. */
struct progress *progress_open(const char *what, double total);
void progress_step(struct progress *progress, double amount);
/* Wipes the bar. */
void progress_close(struct progress *progress);

#endif
