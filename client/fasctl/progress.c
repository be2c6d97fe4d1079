/*
 * progress.c: see progress.h.
 */
#include "client/fasctl/progress.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/fasctl/clock.h"

struct progress {
    const char *what;
    double total, done;
    uint64_t drawn_ns;
    pthread_mutex_t lock;
};

struct progress *progress_open(const char *what, double total)
{
    struct progress *progress = isatty(STDERR_FILENO) ? calloc(1, sizeof(*progress)) : NULL;
    if (progress) {
        progress->what = what;
        progress->total = total > 0 ? total : 1;
        progress->drawn_ns = clock_ns();
        pthread_mutex_init(&progress->lock, NULL);
    }
    return progress;
}

void progress_step(struct progress *progress, double amount)
{
    static const char full[] = "########################################";
    if (!progress) {
        return;
    }
    pthread_mutex_lock(&progress->lock);
    progress->done += amount;
    if (clock_ns() - progress->drawn_ns > 100 * 1000 * 1000) {
        double part = progress->done < progress->total ? progress->done / progress->total : 1;
        int cells = (int)(part * 40);
        fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%", progress->what, cells, full, 40 - cells, "",
                100 * part);
        progress->drawn_ns = clock_ns();
    }
    pthread_mutex_unlock(&progress->lock);
}

void progress_close(struct progress *progress)
{
    if (progress) {
        fprintf(stderr, "\r\033[K");
        pthread_mutex_destroy(&progress->lock);
        free(progress);
    }
}
