#include "tests/support/watch.h"

#include <check.h>
#include <string.h>
#include <unistd.h>

enum { STATS_MAX = 512, ANSWER_MS = 5000, WAIT_MS = 20000, PAUSE_MS = 10 };

double watch_stat(struct fas_client *client, const char *name)
{
    struct fas_stat stats[STATS_MAX];
    uint32_t count = 0;
    ck_assert_int_eq(fas_stats(client, ANSWER_MS, stats, STATS_MAX, &count, NULL), FAS_OK);
    for (uint32_t i = 0; i < count; i++) {
        const char *end = *name == '.' ? strchr(stats[i].name, '.') : stats[i].name;
        if (end && strcmp(end, name) == 0) {
            return stats[i].value;
        }
    }
    ck_abort_msg("there is no number called %s", name);
}

double watch_for(struct fas_client *client, const char *name, double wanted)
{
    double value = watch_stat(client, name);
    for (int waited_ms = 0; value != wanted && waited_ms < WAIT_MS; waited_ms += PAUSE_MS) {
        usleep(PAUSE_MS * 1000);
        value = watch_stat(client, name);
    }
    return value;
}
