/* exit.h: the daemon's exit statuses, as sysexits.h has them. The unit does not restart after
 * EXIT_USAGE; deploy/operations.md tells operators what each means. */
#ifndef SERVER_EXIT_H
#define SERVER_EXIT_H

enum exit_status {
    /* 0: drained, or did what it was asked for */
    EXIT_USAGE = 64,       /* refused to start, and said why */
    EXIT_UNAVAILABLE = 69, /* stopped before everything was answered */
    EXIT_DEVICE = 70,      /* a device failed */
};

#endif
