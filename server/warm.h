/*
 * warm.h: every kernel of a device once, before the daemon is ready: a kernel that does not load or
 * run here is found at start, and no client pays for the first launch.
 */
#ifndef SERVER_WARM_H
#define SERVER_WARM_H

#include "server/device.h"

/* Launches each row of the device's arch in each of its variants (dtype, softcap, deterministic) on
 * the first bytes of its arena. Returns the name of the row that was refused, or NULL; whether the
 * launches ended well is the caller's to ask. */
const char *warm_rows(const struct device *device, struct attn_context *context);

#endif
