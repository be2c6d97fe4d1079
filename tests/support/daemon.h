/*
 * daemon.h: a faserved of the test's own, as a child process on a socket in a fresh folder.
 * FASERVED in the environment, or FASERVED_PATH at compile time, says which program;
 * FASERVED_KIND in the environment puts devices of that kind in the place of cpu ones: "far".
 * FASERVED_CONNECTIONS has clients use so many connections, and makes chunks small enough that
 * there is something to share.
 */
#ifndef TESTS_DAEMON_H
#define TESTS_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct daemon {
    pid_t pid;
    char folder[64], socket[96], url[112], log[96];
};

/* "cpu"; and "cpu:0.arena_used_bytes", as statistics are named. */
const char *daemon_device_kind(void);
const char *daemon_arena_stat(void);

/* A tcp port of this process's own: below those that the kernel gives to clients (32768 and up), of
 * which many wait out their time when tests run side by side. */
int daemon_port(void);

/* For clients: 0 if the environment does not say. */
uint32_t daemon_connections(void);

/* Starts it with further arguments (NULL-terminated; may be NULL) and waits until it is ready. Ends
 * the test if it does not start. */
void daemon_start(struct daemon *daemon, const char *const *arguments);

/* SIGTERM, then waits: its exit status, or -signal. Removes the folder. */
int daemon_stop(struct daemon *daemon);

/* Waits for its end without asking for it. */
int daemon_wait(struct daemon *daemon);

/* What it uses now, from /proc; also asked by forks of the program that started it. */
bool daemon_alive(const struct daemon *daemon);
int daemon_descriptors(const struct daemon *daemon);
long daemon_resident_kib(const struct daemon *daemon);
/* How often its loop went to sleep. */
long daemon_sleeps(const struct daemon *daemon);

/* Prints its log: what a failed test needs. */
void daemon_print_log(const struct daemon *daemon);

#endif
