/* sim/report: what the simulator says to people. */
#ifndef SIM_REPORT_H
#define SIM_REPORT_H

#include <string>

#include "sim/machine.h"

namespace sim
{

/* "the store of warp 2 lane 5 at fwd.cuh:88" or "the TMA data of fwd.cuh:60, for round 3 of ..." */
std::string report_writer(const cluster &c, tag w);

/* Who waits where, and what every barrier still misses. */
std::string report_deadlock(const machine &m);

} // namespace sim

#endif
