/*
 * share.h: whose clients may share memory with the daemon (option share-with): users and groups of
 * this node. Names are looked up once, at start, so that deciding later asks nobody.
 * Owner: the loop thread.
 */
#ifndef SERVER_SHARE_H
#define SERVER_SHARE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/status.h"

#define SHARE_NAMES_MAX 32u

struct share {
    bool all;
    uint32_t user_count, group_count;
    uid_t users[SHARE_NAMES_MAX];
    gid_t groups[SHARE_NAMES_MAX];
};

/*
 * From "all", or a list of users and @groups, by name or number: "alice,1001,@trainers". Root and
 * the daemon's own user are always in it. Fails for names this node does not know.
 */
enum fas_status share_open(struct share *share, const char *list, struct fas_error *error);

/* Whether somebody is in a group; who it is, the context says. */
typedef bool share_in_group(const void *context, gid_t group);

/* Whether this user, or a group the user is in, is one of them. */
bool share_allows(const struct share *share, uid_t user, share_in_group *in_group,
                  const void *context);

#endif
