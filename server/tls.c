/* tls.c: see tls.h. */
#include "server/tls.h"

#include <errno.h>
#include <mbedtls/pk.h>
#include <mbedtls/x509_crt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A chain of certificates or a key, in PEM. */
#define FILE_BYTES_MAX (256u << 10)

static enum fas_status refuse(const char *option, const char *path, const char *why,
                              struct fas_error *error)
{
    return fas_fail(error, FAS_INVALID_ARGUMENT, option, "%s: %s", path, why);
}

static enum fas_status read_text(const char *option, const char *path, char **text,
                                 struct fas_error *error)
{
    FILE *file = fopen(path, "re");
    *text = file ? calloc(1, FILE_BYTES_MAX + 1) : NULL;
    if (!*text) {
        enum fas_status status = refuse(option, path, strerror(errno), error);
        if (file) {
            fclose(file);
        }
        return status;
    }
    size_t bytes = fread(*text, 1, FILE_BYTES_MAX, file);
    bool whole = bytes > 0 && bytes < FILE_BYTES_MAX && !ferror(file);
    fclose(file);
    return whole ? FAS_OK
                 : refuse(option, path, "empty, not to be read, or 256 KiB and more", error);
}

/* mbedtls tells PEM by the 0 at its end, which counts. */
static bool parse_chain(mbedtls_x509_crt *chain, const char *text)
{
    return mbedtls_x509_crt_parse(chain, (const unsigned char *)text, strlen(text) + 1) == 0;
}

static bool parse_key(mbedtls_pk_context *key, const char *text)
{
    return mbedtls_pk_parse_key(key, (const unsigned char *)text, strlen(text) + 1, NULL, 0) == 0;
}

static enum fas_status examine_pair(const struct tls_files *files, const struct config *config,
                                    struct fas_error *error)
{
    mbedtls_x509_crt chain;
    mbedtls_pk_context key;
    mbedtls_x509_crt_init(&chain);
    mbedtls_pk_init(&key);
    enum fas_status status = FAS_OK;
    if (!parse_chain(&chain, files->cert)) {
        status = refuse("tls-cert", config->tls_cert, "no certificate in PEM", error);
    } else if (!parse_key(&key, files->key)) {
        status = refuse("tls-key", config->tls_key, "no key in PEM without a password", error);
    } else if (mbedtls_pk_check_pair(&chain.pk, &key) != 0) {
        status = refuse("tls-key", config->tls_key,
                        "not the key of the first certificate of tls-cert", error);
    }
    mbedtls_pk_free(&key);
    mbedtls_x509_crt_free(&chain);
    return status;
}

static enum fas_status examine_ca(const struct tls_files *files, const struct config *config,
                                  struct fas_error *error)
{
    mbedtls_x509_crt chain;
    mbedtls_x509_crt_init(&chain);
    bool good = !files->ca || parse_chain(&chain, files->ca);
    mbedtls_x509_crt_free(&chain);
    return good ? FAS_OK : refuse("tls-ca", config->tls_ca, "no certificate in PEM", error);
}

enum fas_status tls_read(struct tls_files *files, const struct config *config,
                         struct fas_error *error)
{
    *files = (struct tls_files){NULL};
    enum fas_status status = read_text("tls-cert", config->tls_cert, &files->cert, error);
    if (status == FAS_OK) {
        status = read_text("tls-key", config->tls_key, &files->key, error);
    }
    if (status == FAS_OK && config->tls_ca[0] != '\0') {
        status = read_text("tls-ca", config->tls_ca, &files->ca, error);
    }
    if (status == FAS_OK) {
        status = examine_pair(files, config, error);
    }
    if (status == FAS_OK) {
        status = examine_ca(files, config, error);
    }
    if (status != FAS_OK) {
        tls_forget(files);
    }
    return status;
}

void tls_forget(struct tls_files *files)
{
    if (files->key) {
        explicit_bzero(files->key, FILE_BYTES_MAX);
    }
    free(files->cert);
    free(files->key);
    free(files->ca);
    *files = (struct tls_files){NULL};
}
