/*
 * topology.h: which processors there are, and which of them near a device of the PCI bus, as Linux
 * says in /sys. Memory a thread touches first lies near the processor it runs on.
 */
#ifndef SERVER_TOPOLOGY_H
#define SERVER_TOPOLOGY_H

#include <stdbool.h>

/* How many this process may use. */
int topology_processors(void);

/* Binds the calling thread to the processors near "0000:1b:00.0", as far as the process may use
 * them. False: nothing is known, or none of them is allowed; the thread stays where it is. */
bool topology_move_to_pci(const char *bus_id);

/* "0-3,8" -> a set of processors, as bits; false if it is not such a list. bits: processors_max of
 * them, 64 to a word. */
bool topology_parse_list(const char *text, unsigned long long *bits, unsigned processors_max);

#endif
