/* share.c: two short lists of numbers. */
#include "server/share.h"

#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/config.h"

/* "1001" -> 1001. */
static bool number_of(const char *text, uint32_t *number)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    *number = (uint32_t)value;
    return *text >= '0' && *text <= '9' && *end == '\0' && value < UINT32_MAX;
}

static bool find_user(const char *name, uid_t *user)
{
    if (number_of(name, user)) {
        return true;
    }
    const struct passwd *entry = getpwnam(name);
    *user = entry ? entry->pw_uid : 0;
    return entry != NULL;
}

static bool find_group(const char *name, gid_t *group)
{
    if (number_of(name, group)) {
        return true;
    }
    const struct group *entry = getgrnam(name);
    *group = entry ? entry->gr_gid : 0;
    return entry != NULL;
}

enum fas_status share_open(struct share *share, const char *list, struct fas_error *error)
{
    *share = (struct share){.all = strcmp(list, "all") == 0, .users = {0, geteuid()}};
    share->user_count = 2;
    char names[CONFIG_TEXT_BYTES_MAX], *rest = names, *name;
    strncpy(names, list, sizeof names - 1);
    names[sizeof names - 1] = '\0';
    while (!share->all && *list && (name = strsep(&rest, ","))) {
        if (share->user_count == SHARE_NAMES_MAX || share->group_count == SHARE_NAMES_MAX) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, "share-with", "more than %u names",
                            SHARE_NAMES_MAX - 2);
        }
        bool group = *name == '@';
        bool known = group ? find_group(name + 1, &share->groups[share->group_count])
                           : find_user(name, &share->users[share->user_count]);
        if (!known) {
            return fas_fail(error, FAS_INVALID_ARGUMENT, "share-with",
                            "no user or @group \"%s\" on this node", name);
        }
        share->group_count += group;
        share->user_count += !group;
    }
    return FAS_OK;
}

bool share_allows(const struct share *share, uid_t user, share_in_group *in_group,
                  const void *context)
{
    bool found = share->all;
    for (uint32_t i = 0; i < share->user_count && !found; i++) {
        found = share->users[i] == user;
    }
    for (uint32_t i = 0; i < share->group_count && !found; i++) {
        found = in_group(context, share->groups[i]);
    }
    return found;
}
