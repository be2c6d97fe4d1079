/* replay.c: usage: replay_TARGET FOLDER...: runs a fuzz target over the files of its corpus. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <string.h>

static int replay_file(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 0;
    }
    static uint8_t data[1 << 21];
    size_t bytes = fread(data, 1, sizeof data, file);
    fclose(file);
    uint8_t *exact = malloc(bytes == 0 ? 1 : bytes); /* reading past its end shows */
    if (exact == NULL) {
        return 0;
    }
    memcpy(exact, data, bytes);
    LLVMFuzzerTestOneInput(exact, bytes);
    free(exact);
    return 1;
}

int main(int argc, char **argv)
{
    int files = 0;
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        if (folder == NULL) {
            perror(argv[i]);
            return EXIT_FAILURE;
        }
        for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
            files += entry->d_name[0] == '.' ? 0 : replay_file(argv[i], entry->d_name);
        }
        closedir(folder);
    }
    printf("%d inputs\n", files);
    return files > 0 ? EXIT_SUCCESS : EXIT_FAILURE; /* a corpus that is not there proves nothing */
}
