/*
 * ask.c: fasctl ping, stats and drain: one question, its answer printed.
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/fasctl/fasctl.h"
#include "client/fasctl/table.h"

static const struct option_row target_rows[] = {TARGET_ROWS, {0}};

/* ---- ping ---- */

static void print_server(const struct fas_server *server)
{
    printf("%s, protocol %u, %u call%s in flight, chunks of %u KiB\n", server->name,
           server->version, server->calls_max, table_plural(server->calls_max),
           server->chunk_bytes >> 10);
    for (uint32_t i = 0; i < server->device_count; i++) {
        const struct fas_server_device *device = &server->devices[i];
        printf("  device %-8s %-6s %.2f GiB arena%s%s\n", device->name, device->arch,
               (double)device->arena_bytes / (1u << 30), *device->uuid ? " " : "", device->uuid);
    }
    for (uint32_t i = 0; i < server->kernel_count; i++) {
        const struct fas_server_kernel *kernel = &server->kernels[i];
        printf("  kernel %-20s %-6s %-8s d %d..%d, dv %d..%d,", kernel->name, kernel->arch,
               kernel->pass == FAS_FORWARD ? "forward" : "backward", kernel->d_min, kernel->d_max,
               kernel->dv_min, kernel->dv_max);
        for (int dtype = 0; dtype < FAS_DTYPE_COUNT; dtype++) {
            if (kernel->dtypes & (1u << dtype)) {
                printf(" %s", fas_dtype_name((enum fas_dtype)dtype));
            }
        }
        printf("\n");
    }
}

int command_ping(int argc, char **argv)
{
    int code;
    if (!command_options("ping [OPTIONS]", target_rows, argc, argv, &code)) {
        return code;
    }
    struct fas_client *client = target_connect(0, 1);
    if (!client) {
        return EXIT_NO_SERVER;
    }
    uint64_t best_us = UINT64_MAX, us;
    struct fas_error error = {0};
    for (int i = 0; i < 5 && error.status == FAS_OK; i++) {
        if (fas_ping(client, (uint32_t)target.timeout_ms, &us, &error) == FAS_OK) {
            best_us = us < best_us ? us : best_us;
        }
    }
    if (error.status == FAS_OK) {
        print_server(fas_server(client));
        printf("round trip %llu us (best of 5)\n", (unsigned long long)best_us);
    } else {
        complain("ping", &error);
    }
    fas_close(client);
    return error.status == FAS_OK ? EXIT_OK : EXIT_FAILED;
}

/* ---- stats ---- */

static void print_json(const struct fas_stat *stats, uint32_t count)
{
    cJSON *object = cJSON_CreateObject();
    for (uint32_t i = 0; i < count; i++) {
        cJSON_AddNumberToObject(object, stats[i].name, stats[i].value);
    }
    char *text = cJSON_Print(object);
    if (text) {
        puts(text);
    }
    free(text);
    cJSON_Delete(object);
}

int command_stats(int argc, char **argv)
{
    bool json = false;
    const struct option_row rows[] = {
        {"json", OPTION_FLAG, &json, NULL, "as one JSON object", 0, 0}, TARGET_ROWS, {0}};
    int code;
    if (!command_options("stats [OPTIONS]", rows, argc, argv, &code)) {
        return code;
    }
    struct fas_client *client = target_connect(0, 1);
    if (!client) {
        return EXIT_NO_SERVER;
    }
    static struct fas_stat stats[512];
    uint32_t count;
    struct fas_error error;
    enum fas_status status =
        fas_stats(client, (uint32_t)target.timeout_ms, stats, 512, &count, &error);
    if (status != FAS_OK) {
        complain("stats", &error);
    } else if (json) {
        print_json(stats, count);
    } else {
        for (uint32_t i = 0; i < count; i++) {
            printf("%-44s %.15g\n", stats[i].name, stats[i].value);
        }
    }
    fas_close(client);
    return status == FAS_OK ? EXIT_OK : EXIT_FAILED;
}

/* ---- drain ---- */

int command_drain(int argc, char **argv)
{
    int code;
    if (!command_options("drain [OPTIONS]", target_rows, argc, argv, &code)) {
        return code;
    }
    struct fas_client *client = target_connect(0, 1);
    if (!client) {
        return EXIT_NO_SERVER;
    }
    struct fas_error error;
    enum fas_status status = fas_drain(client, (uint32_t)target.timeout_ms, &error);
    if (status == FAS_OK) {
        printf("draining: the daemon refuses new requests and exits when it is done\n");
    } else {
        complain("drain", &error);
    }
    fas_close(client);
    return status == FAS_OK ? EXIT_OK : EXIT_FAILED;
}
