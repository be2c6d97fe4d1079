/* fault.c: the fault sites of a daemon that is built to fail. */
#include "server/fault.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool fault_here(const char *site)
{
    static atomic_int reached;
    char wanted[32];
    int from;
    const char *plan = getenv("FASERVED_FAULT");
    if (!plan || sscanf(plan, "%31s %d", wanted, &from) != 2 || strcmp(wanted, site) != 0) {
        return false;
    }
    return atomic_fetch_add(&reached, 1) + 1 >= from;
}
