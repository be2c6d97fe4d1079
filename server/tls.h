/*
 * tls.h: the files behind tls-cert, tls-key and tls-ca, read and examined before anybody connects:
 * each is what it should be, and the key is the certificate's. nng takes any pair, and then every
 * handshake fails. Home of mbedtls, which is nng's own TLS.
 *
 * Used once, at start and by --check-config.
 */
#ifndef SERVER_TLS_H
#define SERVER_TLS_H

#include "proto/status.h"
#include "server/config.h"

/* PEM texts; tls_forget frees them and wipes the key. */
struct tls_files {
    char *cert, *key;
    char *ca; /* NULL: none, so clients need no certificate */
};

/* The error names the option at fault; then there is nothing to forget. */
enum fas_status tls_read(struct tls_files *files, const struct config *config,
                         struct fas_error *error);
void tls_forget(struct tls_files *files);

#endif
