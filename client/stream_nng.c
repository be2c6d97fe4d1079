/*
 * stream_nng.c: tls streams, through nng; the client's only file with nng. Both directions
 * wait for their operation in the thread that began it: a completion that is waited for costs no
 * change of threads when the kernel took or had the bytes at once, and one instead of two when not.
 * Measured with callbacks: bulk at half the rate of plain sockets.
 *
 * nng 1.5.2 never completes an operation begun on a closed stream, so beginning one and closing
 * exclude each other by a gate per direction.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>

#include "client/stream.h"

/* Dialling and greeting together; a daemon of the same site answers in milliseconds. */
#define CONNECT_TIMEOUT_MS_DEFAULT 5000u

struct stream {
    nng_stream *nng;
    nng_aio *tx, *rx;
    pthread_mutex_t tx_gate, rx_gate; /* closing takes both, in this order */
    bool closed;
};

/* ---- dialling ---- */

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

static enum fas_status dial(const struct fas_connect_options *options, nng_stream **stream,
                            struct fas_error *error)
{
    nng_stream_dialer *dialer = NULL;
    int failed = nng_stream_dialer_alloc(&dialer, options->url);
    if (failed != 0) {
        return dial_failed(failed, options->url, error);
    }
    /* nng's streams leave Nagle on: 88 ms a round trip over TLS. */
    nng_stream_dialer_set_bool(dialer, NNG_OPT_TCP_NODELAY, true);
    nng_stream_dialer_set_bool(dialer, NNG_OPT_TCP_KEEPALIVE, true);
    enum fas_status status = dial_tls(options, dialer, error);
    if (status == FAS_OK) {
        uint32_t timeout_ms = options->connect_timeout_ms;
        failed = dial_wait(dialer, timeout_ms ? timeout_ms : CONNECT_TIMEOUT_MS_DEFAULT, stream);
        status = failed == 0 ? FAS_OK : dial_failed(failed, options->url, error);
    }
    nng_stream_dialer_free(dialer);
    return status;
}

/* ---- its end ---- */

static void close_nng(struct stream *s)
{
    pthread_mutex_lock(&s->tx_gate);
    pthread_mutex_lock(&s->rx_gate);
    s->closed = true;
    pthread_mutex_unlock(&s->rx_gate);
    pthread_mutex_unlock(&s->tx_gate);
    nng_stream_close(s->nng);
}

static void free_nng(struct stream *s)
{
    nng_aio_free(s->tx);
    nng_aio_free(s->rx);
    if (s->nng) {
        nng_stream_free(s->nng);
    }
    pthread_mutex_destroy(&s->tx_gate);
    pthread_mutex_destroy(&s->rx_gate);
    free(s);
}

/* ---- its beginning ---- */

static enum fas_status open_tls(const struct fas_connect_options *options, struct stream **opened,
                                struct fas_error *error)
{
    if (!options->tls_ca_file) {
        return fas_fail(error, FAS_INVALID_ARGUMENT, "tls_ca_file", "%s needs it", options->url);
    }
    struct stream *s = calloc(1, sizeof(*s));
    if (!s) {
        return fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    pthread_mutex_init(&s->tx_gate, NULL);
    pthread_mutex_init(&s->rx_gate, NULL);
    enum fas_status status = FAS_OK;
    if (nng_aio_alloc(&s->tx, NULL, NULL) != 0 || nng_aio_alloc(&s->rx, NULL, NULL) != 0) {
        status = fas_fail(error, FAS_RESOURCE_EXHAUSTED, "", "out of memory");
    }
    if (status == FAS_OK) {
        status = dial(options, &s->nng, error);
    }
    if (status != FAS_OK) {
        free_nng(s);
        return status;
    }
    *opened = s;
    return FAS_OK;
}

/* ---- moving bytes ---- */

static enum stream_moved lost(int failed, struct fas_error *error)
{
    fas_fail(error, FAS_UNAVAILABLE, "", "the connection is lost: %s", nng_strerror(failed));
    return STREAM_FAILED;
}

typedef void operation(nng_stream *stream, nng_aio *aio);

static bool begin(struct stream *s, pthread_mutex_t *gate, operation *post, nng_aio *aio,
                  const struct iovec *iov, int count)
{
    nng_iov ranges[STREAM_IOV_MAX];
    for (int i = 0; i < count; i++) {
        ranges[i] = (nng_iov){iov[i].iov_base, iov[i].iov_len};
    }
    pthread_mutex_lock(gate);
    bool open = !s->closed;
    if (open) {
        nng_aio_set_iov(aio, (unsigned)count, ranges);
        post(s->nng, aio);
    }
    pthread_mutex_unlock(gate);
    return open;
}

static enum stream_moved send_finish(struct stream *s, size_t *bytes, struct fas_error *error)
{
    nng_aio_wait(s->tx);
    int failed = nng_aio_result(s->tx);
    *bytes = failed == 0 ? nng_aio_count(s->tx) : 0;
    return failed == 0 ? STREAM_MOVED : lost(failed, error);
}

/* Bytes the kernel takes at once have been counted when nng_stream_send returns, so a count, or an
 * error, says that waiting for the completion will not take long. */
static enum stream_moved send_begin(struct stream *s, const struct iovec *iov, int count,
                                    size_t *bytes, struct fas_error *error)
{
    if (!begin(s, &s->tx_gate, nng_stream_send, s->tx, iov, count)) {
        return lost(NNG_ECLOSED, error);
    }
    bool pending = nng_aio_count(s->tx) == 0 && nng_aio_result(s->tx) == 0;
    return pending ? STREAM_PENDING : send_finish(s, bytes, error);
}

static enum stream_moved receive(struct stream *s, const struct iovec *iov, int count,
                                 uint32_t timeout_ms, size_t *bytes, struct fas_error *error)
{
    nng_aio_set_timeout(s->rx, (nng_duration)timeout_ms);
    if (!begin(s, &s->rx_gate, nng_stream_recv, s->rx, iov, count)) {
        return lost(NNG_ECLOSED, error);
    }
    nng_aio_wait(s->rx);
    int failed = nng_aio_result(s->rx);
    if (failed == NNG_ETIMEDOUT) {
        return STREAM_PENDING;
    }
    *bytes = failed == 0 ? nng_aio_count(s->rx) : 0;
    return failed == 0 ? STREAM_MOVED : lost(failed, error);
}

const struct stream_kind stream_tls = {
    .scheme = "tls+tcp://",
    .open = open_tls,
    .send_begin = send_begin,
    .send_finish = send_finish,
    .receive = receive,
    .close = close_nng,
    .free = free_nng,
};
