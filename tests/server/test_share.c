/* Who may share memory: the daemon's own user and root, and whom the list names. */
#include "server/share.h"

#include <string.h>
#include <unistd.h>

#include "tests/support/check_main.h"

static struct share share;
static struct fas_error error;

static bool in(const void *context, gid_t group)
{
    const gid_t *groups = context;
    return groups[0] == group || groups[1] == group;
}

static bool allows(const char *list, uid_t user, gid_t group)
{
    ck_assert_int_eq(share_open(&share, list, &error), FAS_OK);
    return share_allows(&share, user, in, (const gid_t[]){7, group});
}

START_TEST(nobody_but_root_and_the_daemons_user_without_a_list)
{
    ck_assert(allows("", 0, 4242));
    ck_assert(allows("", geteuid(), 4242));
    ck_assert(!allows("", 4241, 4242));
    ck_assert(!allows("4240", 4241, 4242));
}
END_TEST

START_TEST(users_and_groups_by_name_or_number)
{
    ck_assert(allows("root,4241,@4300", 4241, 4242));
    ck_assert(allows("4240,@4242", 4241, 4242));
    ck_assert(!allows("4242,@4241", 4241, 4242));
    ck_assert(allows("@root", 4241, 0));
    ck_assert(allows("all", 4241, 4242));
}
END_TEST

START_TEST(all_groups_of_a_user_count)
{
    ck_assert(allows("@7", 4241, 4242));
    ck_assert(allows("@9,@4242", 4241, 4242));
    ck_assert(!allows("@8,@9", 4241, 4242));
}
END_TEST

static const char *const refused[] = {"nobody-has-this-name",
                                      "@nobody-has-this-name",
                                      "root,,1",
                                      "-1",
                                      "4294967295",
                                      "4294967296",
                                      "12x",
                                      "@",
                                      " root"};

START_TEST(a_name_this_node_does_not_know)
{
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        ck_assert_msg(share_open(&share, refused[i], &error) == FAS_INVALID_ARGUMENT, "%s",
                      refused[i]);
        ck_assert_str_eq(error.field, "share-with");
    }
}
END_TEST

START_TEST(more_names_than_there_is_room_for)
{
    char list[2 * SHARE_NAMES_MAX];
    for (uint32_t i = 0; i < sizeof list; i++) {
        list[i] = i % 2 ? ',' : '5';
    }
    list[2 * (SHARE_NAMES_MAX - 2) - 1] = '\0'; /* root and the daemon's user take two */
    ck_assert_int_eq(share_open(&share, list, &error), FAS_OK);
    list[2 * (SHARE_NAMES_MAX - 2) - 1] = ',';
    list[2 * (SHARE_NAMES_MAX - 1) - 1] = '\0';
    ck_assert_int_eq(share_open(&share, list, &error), FAS_INVALID_ARGUMENT);
}
END_TEST

int main(void)
{
    static const struct check_row rows[] = {
        {"nobody", &nobody_but_root_and_the_daemons_user_without_a_list},
        {"names", &users_and_groups_by_name_or_number},
        {"groups", &all_groups_of_a_user_count},
        {"unknown", &a_name_this_node_does_not_know},
        {"too_many", &more_names_than_there_is_room_for},
    };
    return check_main("share", rows, sizeof rows / sizeof rows[0]);
}
