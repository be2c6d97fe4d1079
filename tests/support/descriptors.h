/*
 * descriptors.h: a process without free descriptors, and how many it has open: for tests of what
 * happens when there are none, and that none leak.
 */
#ifndef TESTS_DESCRIPTORS_H
#define TESTS_DESCRIPTORS_H

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* Open descriptors of a process ("self" or a pid as text); -1 if they can not be counted. */
static inline int descriptors_open(const char *pid)
{
    char path[64] = "/proc/";
    size_t at = 6;
    while (*pid && at < 32) {
        path[at++] = *pid++;
    }
    for (const char *rest = "/fd"; *rest; rest++) {
        path[at++] = *rest;
    }
    DIR *folder = opendir(path);
    if (!folder) {
        return -1;
    }
    int count = 0;
    while (readdir(folder)) {
        count++;
    }
    int own = path[6] == 's'; /* the one opendir took */
    closedir(folder);
    return count - 2 - own;
}

/*
 * Takes descriptors until at most `spare` can still be opened; the last one taken is returned, and
 * the first is *first: close [*first, last] to give them back.
 */
static inline int descriptors_exhaust(rlim_t limit, int spare, int *first)
{
    struct rlimit rlimit;
    getrlimit(RLIMIT_NOFILE, &rlimit);
    if (limit < rlimit.rlim_cur) {
        rlimit.rlim_cur = limit;
        setrlimit(RLIMIT_NOFILE, &rlimit);
    }
    int last = -1;
    *first = -1;
    for (int fd = open("/dev/null", O_RDONLY | O_CLOEXEC); fd >= 0;
         fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) {
        *first = *first < 0 ? fd : *first;
        last = fd;
    }
    for (int i = 0; i < spare && last >= *first; i++) {
        close(last--);
    }
    return last;
}

#endif
