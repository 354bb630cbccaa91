/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cloudblk.so: what a user names in -plugin or LD_PRELOAD.
 *
 * It refers to no QEMU symbol, so that it loads everywhere, finds out which
 * QEMU it is in and opens the device library that was built for exactly that
 * release, from the folder that this file is in. Preloaded into any other
 * program (a shell that starts QEMU, qemu-img) it does nothing.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "identity.h"

#define EXPORT __attribute__((visibility("default")))

#define LIBRARY_PREFIX "cloudblk-qemu-"
#define LIBRARY_SUFFIX ".so"

typedef int PluginInstall(uint64_t id, const void *info, int argc, char **argv);

/* QEMU reads it after our constructor ran, which puts the right value in. */
EXPORT int qemu_plugin_version;

static PluginInstall *device_install;
static bool compiled_in;

/* Folder of this file, with a final slash. */
static void own_folder(char *folder, size_t size)
{
    char path[PATH_MAX];
    Dl_info here;
    char *slash;

    folder[0] = '\0';
    if (!dladdr(&qemu_plugin_version, &here) ||
        !realpath(here.dli_fname, path)) {
        return;
    }
    slash = strrchr(path, '/');
    slash[1] = '\0';
    snprintf(folder, size, "%s", path);
}

/*
 * Writes the releases that have a library in @folder: "7.2.22-…, 10.0.2-…" or
 * "none".
 */
static void list_libraries(const char *folder, char *list, size_t size)
{
    const size_t around = strlen(LIBRARY_PREFIX) + strlen(LIBRARY_SUFFIX);
    struct dirent *entry;
    size_t used = 0;
    DIR *dir = opendir(folder);

    snprintf(list, size, "none");
    while (dir && (entry = readdir(dir))) {
        size_t length = strlen(entry->d_name);
        int part;

        if (length <= around ||
            strncmp(entry->d_name, LIBRARY_PREFIX, strlen(LIBRARY_PREFIX)) ||
            strcmp(entry->d_name + length - strlen(LIBRARY_SUFFIX),
                   LIBRARY_SUFFIX)) {
            continue;
        }
        part = length - around;
        if (used + part + 3 > size) {
            break;
        }
        used += snprintf(list + used, size - used, "%s%.*s", used ? ", " : "",
                         part, entry->d_name + strlen(LIBRARY_PREFIX));
    }
    if (dir) {
        closedir(dir);
    }
}

static void missing_library(const CloudblkQemuIdentity *qemu,
                            const char *folder, const char *path)
{
    char list[2048];

    list_libraries(folder, list, sizeof(list));
    fprintf(stderr,
            "cloudblk: no device library for this QEMU %s (there are: %s); "
            "make it with scripts/build-plugin --qemu-source SRC --qemu-build "
            "BUILD --output %s\n",
            qemu->shown, list, path);
    exit(1);
}

static void __attribute__((constructor)) open_device_library(void)
{
    CloudblkQemuIdentity qemu;
    char folder[PATH_MAX];
    char path[2 * PATH_MAX];
    void *library;
    int *version;

    /* scripts/build-qemu: such a QEMU needs no library. */
    compiled_in = dlsym(RTLD_DEFAULT, "cloudblk_compiled_in") != NULL;
    if (compiled_in || !cloudblk_identity_of_process(&qemu)) {
        /* QEMU 9.0 dropped this function together with API version 1. */
        qemu_plugin_version =
            dlsym(RTLD_DEFAULT, "qemu_plugin_n_vcpus") ? 1 : 2;
        return;
    }
    own_folder(folder, sizeof(folder));
    snprintf(path, sizeof(path), "%s" LIBRARY_PREFIX "%s" LIBRARY_SUFFIX,
             folder, qemu.file_part);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *error = dlerror();
        FILE *file = fopen(path, "r");

        if (!file) {
            missing_library(&qemu, folder, path);
        }
        fclose(file);
        fprintf(stderr, "cloudblk: cannot load the device library: %s\n",
                error);
        exit(1);
    }
    version = dlsym(library, "qemu_plugin_version");
    device_install = (PluginInstall *)dlsym(library, "qemu_plugin_install");
    if (!version || !device_install) {
        fprintf(stderr, "cloudblk: %s is no device library of cloudblk\n",
                path);
        exit(1);
    }
    qemu_plugin_version = *version;
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc,
                               char **argv);

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    if (compiled_in) {
        return 0;
    }
    if (!device_install) {
        fprintf(stderr,
                "cloudblk: this QEMU exports no device interface; use one that "
                "was configured with --enable-modules\n");
        exit(1);
    }
    return device_install(id, info, argc, argv);
}
