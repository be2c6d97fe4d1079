/* The sm_100 backward in the simulator. */
#include "tests/sim/backward_suite.h"

int main()
{
    return backward_suite_main(
        {"sim_sm100_bwd",
         &sm100_backward,
         10,
         {0, 2, 6, 8}, /* each kernel, and each way in which turns are taken once */
         {{"warp_sync(); /* the end wants",
           "the simulator lets lanes come to block_sync one by one",
           {}},
          {"mbarrier_wait(smem + S::MAY_DRAW",
           "tiles are drawn late for balance; where tiles of a group wait for each other (cyclic "
           "order) one CTA must not draw two of them",
           {"full in any order", "causal", "window"}},
          {"warp_sync(); /* all lanes have read",
           "there a tile is drawn when the next to last is done",
           {"full deterministic"}}},
         {}});
}
