/* TLS end to end: who is let in, who is not, and that either side says why. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"

#define TOKEN "0123456789abcdef0123456789abcdef"
#define CONNECT_MS 5000u

static char folder[] = "/tmp/faserved-tls-XXXXXX";
static char address[32], url[64];
static struct daemon server;

/* A file of the folder; the text is valid until the eighth call after. */
static const char *file(const char *name)
{
    static char texts[8][96];
    static unsigned next;
    char *text = texts[next++ % 8];
    snprintf(text, sizeof(texts[0]), "%s/%s", folder, name);
    return text;
}

static void make_files(void)
{
    char command[256];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(command, sizeof(command), "%s %s", MAKE_KEYS, folder);
    ck_assert_msg(system(command) == 0, "%s failed", command);
    FILE *tokens = fopen(file("tokens"), "we");
    ck_assert_ptr_nonnull(tokens);
    ck_assert_int_eq(fchmod(fileno(tokens), 0600), 0);
    fprintf(tokens, "trainer %s\n", TOKEN);
    fclose(tokens);
    snprintf(address, sizeof(address), "127.0.0.1:%d", daemon_port());
    snprintf(url, sizeof(url), "tls+tcp://%s", address);
}

/* `authority`: clients must show a certificate by it; NULL: they need none. */
static void start(const char *authority)
{
    make_files();
    const char *arguments[] = {"--device",
                               "cpu:0",
                               "--arena-bytes",
                               "64MiB",
                               "--listen-tls",
                               address,
                               "--tls-cert",
                               file("faserved.pem"),
                               "--tls-key",
                               file("faserved.key"),
                               "--token-file",
                               file("tokens"),
                               authority ? "--tls-ca" : NULL,
                               authority ? file(authority) : NULL,
                               NULL};
    daemon_start(&server, arguments);
}

static void remove_files(void)
{
    char command[64];
    snprintf(command, sizeof(command), "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}

static void stop(void)
{
    ck_assert_int_eq(daemon_stop(&server), 0);
    remove_files();
}

static struct fas_connect_options good(void)
{
    return (struct fas_connect_options){.url = url,
                                        .token = TOKEN,
                                        .tls_ca_file = file("ours.pem"),
                                        .tls_server_name = "faserved.test",
                                        .connect_timeout_ms = CONNECT_MS};
}

/* The bits of a request that went both ways through it. */
static void check_served(const struct fas_connect_options *options)
{
    static const struct job_shape shape = {FAS_BF16, 2, 1, 64, 64, 20, 400, true, false};
    struct random random = random_open(5);
    struct fas_client *client;
    struct fas_error error;
    struct job job;
    enum fas_status status = fas_connect(options, &client, &error);
    ck_assert_msg(status == FAS_OK, "%s %s: %s", fas_status_name(status), error.field, error.text);
    job_forward(&job, &shape, &random);
    ck_assert_int_eq(fas_run(client, &job.request, NULL), FAS_OK);
    ck_assert(job_right(&job));
    job_close(&job);
    fas_close(client);
}

static void check_refused(const struct fas_connect_options *options, enum fas_status expected)
{
    struct fas_client *client = NULL;
    struct fas_error error;
    enum fas_status status = fas_connect(options, &client, &error);
    ck_assert_msg(status == expected, "%s %s: %s", fas_status_name(status), error.field,
                  error.text);
    ck_assert_ptr_null(client);
    ck_assert_str_ne(error.text, "");
}

START_TEST(a_client_that_trusts_the_authority_and_has_a_token_is_served)
{
    start(NULL);
    struct fas_connect_options options = good();
    check_served(&options);
    options.connections = 3;
    check_served(&options);
    stop();
}
END_TEST

START_TEST(a_client_refuses_a_server_it_has_no_reason_to_trust)
{
    start(NULL);
    struct fas_connect_options options = good();
    options.tls_ca_file = file("strange.pem");
    check_refused(&options, FAS_UNAVAILABLE);
    options = good();
    options.tls_server_name = "other.test";
    check_refused(&options, FAS_UNAVAILABLE);
    options = good();
    options.tls_ca_file = file("nothing.pem");
    check_refused(&options, FAS_INVALID_ARGUMENT);
    options.tls_ca_file = NULL;
    check_refused(&options, FAS_INVALID_ARGUMENT);
    options = good();
    check_served(&options);
    stop();
}
END_TEST

START_TEST(a_certificate_is_no_token)
{
    start(NULL);
    struct fas_connect_options options = good();
    options.token = NULL;
    check_refused(&options, FAS_UNAUTHENTICATED);
    options.token = "0123456789abcdef0123456789abcdeX";
    check_refused(&options, FAS_UNAUTHENTICATED);
    options = good();
    check_served(&options);
    stop();
}
END_TEST

START_TEST(who_does_not_speak_tls_is_closed)
{
    char plain[64];
    start(NULL);
    struct fas_connect_options options = good();
    snprintf(plain, sizeof(plain), "tcp://%s", address);
    options.url = plain;
    check_refused(&options, FAS_UNAVAILABLE);
    options = good();
    check_served(&options);
    stop();
}
END_TEST

START_TEST(with_tls_ca_a_client_shows_a_certificate)
{
    start("ours.pem");
    struct fas_connect_options options = good();
    check_refused(&options, FAS_UNAVAILABLE);
    options.tls_cert_key_file = file("client-strange.pem");
    check_refused(&options, FAS_UNAVAILABLE);
    options.tls_cert_key_file = file("client-ours.pem");
    check_served(&options);
    options.token = NULL;
    check_refused(&options, FAS_UNAUTHENTICATED);
    stop();
}
END_TEST

/* What faserved says last with these files, and that it refuses them; `extra`: one more flag. */
static void check_said(const char *cert, const char *key, const char *authority, const char *extra,
                       const char *option)
{
    char command[1024], line[1024] = "", last[1024] = "";
    snprintf(command, sizeof(command),
             "timeout 20 %s --config=/dev/null --device cpu:0 --arena-bytes 16MiB --listen-ipc %s "
             "--listen-tls %s --tls-cert %s --tls-key %s --token-file %s --tls-ca=%s %s 2>&1",
             FASERVED_PATH, file("socket"), address, file(cert), file(key), file("tokens"),
             authority ? file(authority) : "", extra);
    FILE *log = popen(command, "re");
    ck_assert_ptr_nonnull(log);
    while (fgets(line, sizeof(line), log)) {
        memcpy(last, line, sizeof(last));
    }
    int status = pclose(log);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 64, "%d: %s", status, last);
    ck_assert_msg(strstr(last, option) != NULL, "%s is not in %s", option, last);
}

static void check_refused_files(const char *cert, const char *key, const char *authority,
                                const char *option)
{
    char start[32], check[32];
    snprintf(start, sizeof(start), "option=\"%s\"", option);
    snprintf(check, sizeof(check), "faserved: %s: ", option);
    check_said(cert, key, authority, "", start);
    check_said(cert, key, authority, "--check-config", check);
}

START_TEST(a_daemon_does_not_start_with_keys_that_are_none)
{
    make_files();
    check_refused_files("nothing.pem", "faserved.key", NULL, "tls-cert");
    check_refused_files("faserved.pem", "nothing.key", NULL, "tls-key");
    check_refused_files("tokens", "faserved.key", NULL, "tls-cert");
    check_refused_files("faserved.pem", "tokens", NULL, "tls-key");
    check_refused_files("faserved.pem", "faserved.key", "tokens", "tls-ca");
    remove_files();
}
END_TEST

/* Every handshake would fail, and only the clients would know. */
START_TEST(a_daemon_does_not_start_with_the_key_of_another_certificate)
{
    make_files();
    check_refused_files("faserved.pem", "client-ours.key", NULL, "tls-key");
    check_refused_files("faserved.pem", "ours.key", "ours.pem", "tls-key");
    remove_files();
}
END_TEST

START_TEST(check_config_reads_the_tokens_too)
{
    make_files();
    ck_assert_int_eq(chmod(file("tokens"), 0644), 0);
    check_said("faserved.pem", "faserved.key", NULL, "--check-config", "faserved: token-file: ");
    remove_files();
}
END_TEST

static const struct check_row tests[] = {
    {"served", &a_client_that_trusts_the_authority_and_has_a_token_is_served},
    {"strange", &a_client_refuses_a_server_it_has_no_reason_to_trust},
    {"token", &a_certificate_is_no_token},
    {"plain", &who_does_not_speak_tls_is_closed},
    {"client", &with_tls_ca_a_client_shows_a_certificate},
    {"start", &a_daemon_does_not_start_with_keys_that_are_none},
    {"pair", &a_daemon_does_not_start_with_the_key_of_another_certificate},
    {"check", &check_config_reads_the_tokens_too},
};

CHECK_MAIN("tls", tests)
