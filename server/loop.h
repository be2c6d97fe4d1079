/*
 * loop.h: the thread that owns everything. It sleeps until another thread, a timer or a signal
 * wakes it, and takes one turn (server_turn). The only file with libuv.
 *
 * SIGTERM or SIGINT: refuse new work, finish what was accepted, return 0; again: exit at once.
 * With the last device lost it returns a status of its own, so that the service manager restarts
 * it. With metrics-address, HTTP is answered here too (http.h). Under systemd: READY and STOPPING
 * are notified, and the watchdog is fed by the loop itself.
 */
#ifndef SERVER_LOOP_H
#define SERVER_LOOP_H

struct server;
struct fas_error;

/* Opens the server from server->config and runs it. Returns the process's exit status. */
int loop_run(struct server *server);

#endif
