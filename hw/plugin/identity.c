/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <ctype.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "identity.h"

/* What query-version has returned, as C structures, in every QEMU since 2.6. */
typedef struct VersionTriple {
    int64_t major;
    int64_t minor;
    int64_t micro;
} VersionTriple;

typedef struct VersionInfo {
    VersionTriple *qemu;
    char *package;
} VersionInfo;

typedef VersionInfo *QueryVersion(void *errp);
typedef void FreeVersion(VersionInfo *info);

/* Length of @package without the "+bN" of a binary-only rebuild. */
static int source_length(const char *package)
{
    size_t length = strlen(package);
    size_t end = length;

    while (end > 0 && isdigit((unsigned char)package[end - 1])) {
        end--;
    }
    if (end < length && end >= 2 && package[end - 1] == 'b' &&
        package[end - 2] == '+') {
        return end - 2;
    }
    return length;
}

void cloudblk_identity_set(CloudblkQemuIdentity *identity, int major, int minor,
                           int micro, const char *package)
{
    int length = source_length(package);
    const char *separator = length ? "-" : "";

    if (length) {
        snprintf(identity->shown, sizeof(identity->shown), "%d.%d.%d (%.*s)",
                 major, minor, micro, length, package);
    } else {
        snprintf(identity->shown, sizeof(identity->shown), "%d.%d.%d",
                 major, minor, micro);
    }
    snprintf(identity->file_part, sizeof(identity->file_part), "%d.%d.%d%s%.*s",
             major, minor, micro, separator, length, package);
    for (char *at = identity->file_part; *at; at++) {
        if (!isalnum((unsigned char)*at) && !strchr("+.~-", *at)) {
            *at = '-';
        }
    }
}

bool cloudblk_identity_of_process(CloudblkQemuIdentity *identity)
{
    /* The storage daemon answers query-version too, but has no PCI bus. */
    QueryVersion *query =
        (QueryVersion *)dlsym(RTLD_DEFAULT, "qmp_query_version");
    FreeVersion *free_version =
        (FreeVersion *)dlsym(RTLD_DEFAULT, "qapi_free_VersionInfo");
    VersionInfo *info;

    if (!query || !free_version ||
        !dlsym(RTLD_DEFAULT, "virtio_pci_types_register")) {
        return false;
    }
    info = query(NULL);
    cloudblk_identity_set(identity, info->qemu->major, info->qemu->minor,
                          info->qemu->micro,
                          info->package ? info->package : "");
    free_version(info);
    return true;
}
