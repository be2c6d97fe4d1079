/* topology.c: one small file of /sys, and two system calls. */
#include "server/topology.h"

#include <ctype.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int topology_processors(void)
{
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}

static bool parse_number(const char **at, unsigned long *number)
{
    char *end;
    if (!isdigit((unsigned char)**at)) {
        return false;
    }
    *number = strtoul(*at, &end, 10);
    *at = end;
    return true;
}

bool topology_parse_list(const char *text, unsigned long long *bits, unsigned processors_max)
{
    const char *at = text;
    memset(bits, 0, (processors_max + 63u) / 64u * sizeof *bits);
    do {
        unsigned long first, last;
        if (!parse_number(&at, &first)) {
            return false;
        }
        last = first;
        if (*at == '-') {
            at++;
            if (!parse_number(&at, &last)) {
                return false;
            }
        }
        if (first > last || last >= processors_max) {
            return false;
        }
        for (unsigned long i = first; i <= last; i++) {
            bits[i / 64] |= 1ull << (i % 64);
        }
    } while (*at++ == ',');
    return at[-1] == '\0' || at[-1] == '\n';
}

static bool read_line(const char *bus_id, char *line, size_t bytes)
{
    char path[128];
    size_t length =
        (size_t)snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/local_cpulist", bus_id);
    for (size_t i = 0; i < length && i < sizeof path; i++) {
        path[i] = (char)tolower((unsigned char)path[i]);
    }
    FILE *file = fopen(path, "re");
    bool read = file && fgets(line, (int)bytes, file);
    if (file) {
        fclose(file);
    }
    return read;
}

bool topology_move_to_pci(const char *bus_id)
{
    char line[1024];
    unsigned long long bits[CPU_SETSIZE / 64];
    cpu_set_t allowed, near;
    if (!read_line(bus_id, line, sizeof line) || !topology_parse_list(line, bits, CPU_SETSIZE) ||
        sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        return false;
    }
    CPU_ZERO(&near);
    for (unsigned i = 0; i < CPU_SETSIZE; i++) {
        if (bits[i / 64] >> (i % 64) & 1 && CPU_ISSET(i, &allowed)) {
            CPU_SET(i, &near);
        }
    }
    return CPU_COUNT(&near) > 0 && sched_setaffinity(0, sizeof near, &near) == 0;
}
