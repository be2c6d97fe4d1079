/*
 * dial.c: see dial.h. Waits in the caller's thread, at most connect_timeout_ms.
 */
#include "client/dial.h"

#include <string.h>

#include <nng/supplemental/tls/tls.h>

/* Dialling and greeting together; a daemon of the same site answers in milliseconds. */
#define CONNECT_TIMEOUT_MS_DEFAULT 5000u

static const char *const schemes[] = {"ipc://", "tcp://", "tls+tcp://"};

static enum fas_status dial_failed(int failed, const char *url, struct fas_error *error)
{
    enum fas_status status =
        failed == NNG_ETIMEDOUT    ? FAS_DEADLINE_EXCEEDED
        : failed == NNG_ENOMEM     ? FAS_RESOURCE_EXHAUSTED
        : failed == NNG_EADDRINVAL ? FAS_INVALID_ARGUMENT
        : failed == NNG_EPERM || failed == NNG_EPEERAUTH || failed == NNG_ECRYPTO
            ? FAS_UNAUTHENTICATED
            : FAS_UNAVAILABLE;
    return fas_fail(error, status, "url", "%s: %s", url, nng_strerror(failed));
}

/* A file the caller named can not be used: the caller's field, not the server's fault. */
static enum fas_status file_failed(int failed, const char *field, const char *path,
                                   struct fas_error *error)
{
    return fas_fail(error, failed == NNG_ENOMEM ? FAS_RESOURCE_EXHAUSTED : FAS_INVALID_ARGUMENT,
                    field, "%s: %s", path, nng_strerror(failed));
}

static enum fas_status configure_tls(const struct fas_connect_options *options,
                                     nng_tls_config *config, struct fas_error *error)
{
    int failed = nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED);
    if (failed == 0 && options->tls_server_name) {
        failed = nng_tls_config_server_name(config, options->tls_server_name);
    }
    if (failed != 0) {
        return dial_failed(failed, options->url, error);
    }
    failed = nng_tls_config_ca_file(config, options->tls_ca_file);
    if (failed != 0) {
        return file_failed(failed, "tls_ca_file", options->tls_ca_file, error);
    }
    if (options->tls_cert_key_file) {
        failed = nng_tls_config_cert_key_file(config, options->tls_cert_key_file, NULL);
    }
    return failed == 0
               ? FAS_OK
               : file_failed(failed, "tls_cert_key_file", options->tls_cert_key_file, error);
}

static enum fas_status dial_tls(const struct fas_connect_options *options,
                                nng_stream_dialer *dialer, struct fas_error *error)
{
    nng_tls_config *config = NULL;
    int failed = nng_tls_config_alloc(&config, NNG_TLS_MODE_CLIENT);
    if (failed != 0) {
        return dial_failed(failed, options->url, error);
    }
    enum fas_status status = configure_tls(options, config, error);
    if (status == FAS_OK) {
        failed = nng_stream_dialer_set_ptr(dialer, NNG_OPT_TLS_CONFIG, config);
        status = failed == 0 ? FAS_OK : dial_failed(failed, options->url, error);
    }
    nng_tls_config_free(config);
    return status;
}

static int dial_wait(nng_stream_dialer *dialer, uint32_t timeout_ms, nng_stream **stream)
{
    nng_aio *aio = NULL;
    int failed = nng_aio_alloc(&aio, NULL, NULL);
    if (failed != 0) {
        return failed;
    }
    nng_aio_set_timeout(aio, (nng_duration)timeout_ms);
    nng_stream_dialer_dial(dialer, aio);
    nng_aio_wait(aio);
    failed = nng_aio_result(aio);
    if (failed == 0) {
        *stream = nng_aio_get_output(aio, 0);
    }
    nng_aio_free(aio);
    return failed;
}

enum fas_status dial(const struct fas_connect_options *options, nng_stream **stream,
                     struct fas_error *error)
{
    size_t scheme = 0, count = sizeof(schemes) / sizeof(schemes[0]);
    const char *url = options->url;
    while (scheme < count && strncmp(url, schemes[scheme], strlen(schemes[scheme])) != 0) {
        scheme++;
    }
    if (scheme == count) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "url",
                        "\"%s\" starts with none of ipc://, tcp://, tls+tcp://", url);
    }
    bool tls = scheme == 2;
    if (tls && !options->tls_ca_file) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "tls_ca_file", "%s needs it", url);
    }
    nng_stream_dialer *dialer = NULL;
    int failed = nng_stream_dialer_alloc(&dialer, url);
    if (failed != 0) {
        return dial_failed(failed, url, error);
    }
    if (scheme > 0) { /* nng's streams leave Nagle on: 88 ms a round trip over TLS */
        nng_stream_dialer_set_bool(dialer, NNG_OPT_TCP_NODELAY, true);
        nng_stream_dialer_set_bool(dialer, NNG_OPT_TCP_KEEPALIVE, true);
    }
    enum fas_status status = tls ? dial_tls(options, dialer, error) : FAS_OK;
    if (status == FAS_OK) {
        uint32_t timeout_ms = options->connect_timeout_ms;
        failed = dial_wait(dialer, timeout_ms ? timeout_ms : CONNECT_TIMEOUT_MS_DEFAULT, stream);
        status = failed == 0 ? FAS_OK : dial_failed(failed, url, error);
    }
    nng_stream_dialer_free(dialer);
    return status;
}
