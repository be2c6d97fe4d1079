/* The sm_100 backward of head dims over 128 (pairs of CTAs) in the simulator. */
#include <string.h>

#include "kernels/sm100/bwd_rows.h"
#include "tests/sim/backward_suite.h"

namespace
{

/* With the rows before these, in the order of the table, every head dim is served. */
START_TEST(no_head_dim_is_refused)
{
    const attn_row rows[] = {SM100_BACKWARD_PAIR_ROW, SM100_BACKWARD_ROWS SM100_BACKWARD_WIDE_ROWS};
    for (int d = ATTN_HEAD_DIM_STEP; d <= ATTN_HEAD_DIM_MAX; d += ATTN_HEAD_DIM_STEP) {
        for (int dv = ATTN_HEAD_DIM_STEP; dv <= ATTN_HEAD_DIM_MAX; dv += ATTN_HEAD_DIM_STEP) {
            const char *name = "";
            for (const attn_row &row : rows) {
                bool fits =
                    d >= row.d_min && d <= row.d_max && dv >= row.dv_min && dv <= row.dv_max;
                name = fits && *name == '\0' ? row.name : name;
            }
            const char *wide = d <= 192 && dv <= 128 ? "sm100_bwd_192" : "sm100_bwd_256";
            ck_assert_str_ne(name, "");
            ck_assert_int_eq(strcmp(name, wide) == 0, d > 128 || dv > 128);
        }
    }
}
END_TEST

} // namespace

int main()
{
    return backward_suite_main(
        {"sim_sm100_wide",
         &sm100_backward_wide,
         5,
         {2}, /* full deterministic; of the others the notes tell */
         {{"warp_sync(); /* the end wants",
           "the simulator lets lanes come to cluster_arrive one by one",
           {}},
          {"mbarrier_wait(smem + S::MAY_DRAW",
           "tiles are drawn late for balance: pairs take no turns in the cyclic order",
           {}}},
         {no_head_dim_is_refused}});
}
