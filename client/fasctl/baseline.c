/*
 * baseline.c: see baseline.h.
 */
#include "client/fasctl/baseline.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* An answer is a few hundred bytes. */
#define ANSWER_BYTES_MAX 65536

static char *spec_text(const struct shape *shape, double seconds)
{
    cJSON *spec = cJSON_CreateObject(), *request = cJSON_CreateObject();
    cJSON *requests = cJSON_AddArrayToObject(spec, "requests");
    cJSON_AddNumberToObject(spec, "seconds", seconds);
    cJSON_AddStringToObject(request, "pass", shape->pass == FAS_FORWARD ? "forward" : "backward");
    cJSON_AddStringToObject(request, "dtype", fas_dtype_name(shape->dtype));
    cJSON_AddNumberToObject(request, "hq", shape->hq);
    cJSON_AddNumberToObject(request, "hkv", shape->hkv);
    cJSON_AddNumberToObject(request, "d", shape->d);
    cJSON_AddNumberToObject(request, "dv", shape->dv);
    cJSON_AddItemToObject(request, "lengths_q", cJSON_CreateIntArray(shape->lengths, shape->batch));
    if (shape->causal) {
        cJSON_AddNumberToObject(request, "right", 0);
    }
    cJSON_AddItemToArray(requests, request);
    char *text = cJSON_PrintUnformatted(spec);
    cJSON_Delete(spec);
    return text;
}

static bool spec_write(const char *text, char *path)
{
    int fd = mkstemp(path);
    size_t bytes = text ? strlen(text) : 0;
    bool good = fd >= 0 && text && write(fd, text, bytes) == (ssize_t)bytes;
    if (fd >= 0) {
        close(fd);
    }
    return good;
}

/* Runs it to its end; what it prints goes to `answer`. */
static bool program_run(const char *program, char *path, char *answer)
{
    int fds[2], status = -1;
    pid_t pid;
    char option[] = "--baseline";
    char *arguments[] = {(char *)(uintptr_t)program, option, path, NULL};
    posix_spawn_file_actions_t actions;
    if (pipe(fds) != 0) {
        return false;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    posix_spawn_file_actions_addclose(&actions, fds[1]);
    int failed = posix_spawnp(&pid, program, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    ssize_t used = 0, n = 0;
    while (failed == 0 && used < ANSWER_BYTES_MAX - 1 &&
           (n = read(fds[0], answer + used, (size_t)(ANSWER_BYTES_MAX - 1 - used))) > 0) {
        used += n;
    }
    answer[used] = 0;
    close(fds[0]);
    if (failed == 0) {
        waitpid(pid, &status, 0);
    } else {
        fprintf(stderr, "fasctl: --baseline: %s: %s\n", program, strerror(failed));
    }
    return failed == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool answer_parse(const char *answer, struct baseline *baseline)
{
    cJSON *whole = cJSON_Parse(answer);
    const cJSON *requests = cJSON_GetObjectItemCaseSensitive(whole, "requests");
    const cJSON *request = cJSON_GetArrayItem(requests, 0);
    const struct {
        const char *name;
        double *to;
    } rows[] = {{"p50_us", &baseline->p50_us},
                {"p90_us", &baseline->p90_us},
                {"p99_us", &baseline->p99_us}};
    bool good = cJSON_IsObject(request);
    for (size_t i = 0; good && i < sizeof(rows) / sizeof(rows[0]); i++) {
        const cJSON *number = cJSON_GetObjectItemCaseSensitive(request, rows[i].name);
        good = cJSON_IsNumber(number);
        *rows[i].to = good ? number->valuedouble : 0;
    }
    cJSON_Delete(whole);
    return good;
}

bool baseline_run(const char *program, const struct shape *shape, double seconds,
                  struct baseline *baseline)
{
    char path[] = "/tmp/fasctl-baseline-XXXXXX";
    char *text = spec_text(shape, seconds);
    char *answer = malloc(ANSWER_BYTES_MAX);
    bool good = answer && spec_write(text, path) && program_run(program, path, answer) &&
                answer_parse(answer, baseline);
    if (!good) {
        fprintf(stderr, "fasctl: --baseline: %s gave no answer for %s\n", program,
                text ? text : "this load");
    }
    unlink(path);
    free(answer);
    free(text);
    return good;
}
