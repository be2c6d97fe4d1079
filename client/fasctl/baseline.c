/*
 * baseline.c: see baseline.h.
 */
#include "client/fasctl/baseline.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static cJSON *lengths_of(const struct baseline_load *load)
{
    cJSON *lengths = cJSON_CreateArray();
    for (int copy = 0; copy < load->copies; copy++) {
        for (int32_t i = 0; i < load->shape->batch; i++) {
            cJSON_AddItemToArray(lengths, cJSON_CreateNumber(load->shape->lengths[i]));
        }
    }
    return lengths;
}

static char *spec_text(const struct baseline_load *load)
{
    const struct shape *shape = load->shape;
    cJSON *spec = cJSON_CreateObject(), *request = cJSON_CreateObject();
    cJSON *requests = cJSON_AddArrayToObject(spec, "requests");
    cJSON_AddNumberToObject(spec, "seconds", load->seconds);
    cJSON_AddNumberToObject(spec, "in_flight", load->in_flight);
    cJSON_AddNumberToObject(spec, "parts", load->parts);
    cJSON_AddNumberToObject(spec, "copy_in_bytes", load->in_bytes);
    cJSON_AddNumberToObject(spec, "copy_out_bytes", load->out_bytes);
    cJSON_AddStringToObject(request, "pass", shape->pass == FAS_FORWARD ? "forward" : "backward");
    cJSON_AddStringToObject(request, "dtype", fas_dtype_name(shape->dtype));
    cJSON_AddNumberToObject(request, "hq", shape->hq);
    cJSON_AddNumberToObject(request, "hkv", shape->hkv);
    cJSON_AddNumberToObject(request, "d", shape->d);
    cJSON_AddNumberToObject(request, "dv", shape->dv);
    cJSON_AddItemToObject(request, "lengths_q", lengths_of(load));
    cJSON_AddNumberToObject(request, "sets", load->sets);
    if (shape->causal) {
        cJSON_AddNumberToObject(request, "right", 0);
    }
    cJSON_AddItemToArray(requests, request);
    char *text = cJSON_PrintUnformatted(spec);
    cJSON_Delete(spec);
    return text;
}

static bool answer_parse(const char *answer, struct baseline_times *times)
{
    cJSON *whole = cJSON_Parse(answer);
    const cJSON *request =
        cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(whole, "requests"), 0);
    const cJSON *mean = cJSON_GetObjectItemCaseSensitive(request, "mean_us");
    const cJSON *p50 = cJSON_GetObjectItemCaseSensitive(request, "p50_us");
    const cJSON *copies = cJSON_GetObjectItemCaseSensitive(whole, "copies_us");
    bool good = cJSON_IsNumber(mean) && cJSON_IsNumber(p50);
    if (good) {
        *times = (struct baseline_times){mean->valuedouble, p50->valuedouble,
                                         cJSON_IsNumber(copies) ? copies->valuedouble : 0};
    }
    cJSON_Delete(whole);
    return good;
}

/* A shell splits the options; what it runs takes its place. */
static bool spawn(struct baseline *baseline, const char *program, int in, int out)
{
    size_t room = strlen(program) + 32;
    char *command = malloc(room);
    posix_spawn_file_actions_t actions;
    if (!command) {
        return false;
    }
    snprintf(command, room, "exec %s --baseline -", program);
    char shell[] = "sh", option[] = "-c";
    char *arguments[] = {shell, option, command, NULL};
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    int failed = posix_spawnp(&baseline->child, shell, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    free(command);
    if (failed) {
        baseline->child = 0;
        fprintf(stderr, "fasctl: --baseline: %s: %s\n", program, strerror(failed));
    }
    return failed == 0;
}

bool baseline_open(struct baseline *baseline, const char *program)
{
    int to[2], from[2];
    *baseline = (struct baseline){0};
    signal(SIGPIPE, SIG_IGN); /* if it ends, asking fails */
    if (pipe2(to, O_CLOEXEC) != 0) {
        return false;
    }
    if (pipe2(from, O_CLOEXEC) != 0) {
        close(to[0]);
        close(to[1]);
        return false;
    }
    baseline->to = fdopen(to[1], "w");
    baseline->from = fdopen(from[0], "r");
    bool good = baseline->to && baseline->from && spawn(baseline, program, to[0], from[1]);
    close(to[0]);
    close(from[1]);
    return good;
}

bool baseline_time(struct baseline *baseline, const struct baseline_load *load,
                   struct baseline_times *times)
{
    char *text = spec_text(load), *answer = NULL;
    size_t room = 0;
    bool good = text && fprintf(baseline->to, "%s\n", text) > 0 && fflush(baseline->to) == 0 &&
                getline(&answer, &room, baseline->from) > 0 && answer_parse(answer, times);
    if (!good) {
        fprintf(stderr, "fasctl: --baseline: no answer to %s\n", text ? text : "this load");
    }
    free(answer);
    free(text);
    return good;
}

void baseline_close(struct baseline *baseline)
{
    if (baseline->to) {
        fclose(baseline->to); /* with the last spec it ends */
    }
    if (baseline->from) {
        fclose(baseline->from);
    }
    if (baseline->child > 0) {
        waitpid(baseline->child, NULL, 0);
    }
    *baseline = (struct baseline){0};
}
