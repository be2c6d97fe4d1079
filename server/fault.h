/*
 * fault.h: places where a test makes the daemon's surroundings fail. Only a build with FAS_FAULTS
 * (tests/fault) has them; elsewhere a site is the constant false.
 *
 * FASERVED_FAULT="SITE N" in the environment: the N-th time execution reaches the site, and every
 * time after that, it fails. Any thread.
 */
#ifndef SERVER_FAULT_H
#define SERVER_FAULT_H

#include <stdbool.h>

#ifdef FAS_FAULTS
bool fault_here(const char *site);
#else
static inline bool fault_here(const char *site)
{
    (void)site;
    return false;
}
#endif

#endif
