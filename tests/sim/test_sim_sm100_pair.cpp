/* The sm_100 backward by pairs of CTAs (head dims over 64) in the simulator. */
#include "tests/sim/backward_suite.h"

int main()
{
    return backward_suite_main(
        {"sim_sm100_pair",
         &sm100_backward_pairs,
         10,
         {0, 2, 3}, /* each way in which turns are taken */
         {{"warp_sync(); /* the end wants",
           "the simulator lets lanes come to cluster_arrive one by one",
           {}},
          {"mbarrier_wait(smem + S::MAY_DRAW",
           "tiles are drawn late for balance: pairs take no turns in the cyclic order",
           {}}},
         {}});
}
