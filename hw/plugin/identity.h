/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which QEMU is this process? Needs no QEMU header and no QEMU symbol at link
 * time.
 */
#ifndef CLOUDBLK_PLUGIN_IDENTITY_H
#define CLOUDBLK_PLUGIN_IDENTITY_H

#include <stdbool.h>

typedef struct CloudblkQemuIdentity {
    /* As a person writes it: "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)". */
    char shown[200];
    /* As part of a file name: "7.2.22-Debian-1-7.2+dfsg-7+deb12u18". */
    char file_part[200];
} CloudblkQemuIdentity;

/*
 * Fills in @identity from the upstream version and the package string of a
 * build. A binary-only rebuild by Debian ("+b3") is the same release.
 */
void cloudblk_identity_set(CloudblkQemuIdentity *identity, int major, int minor,
                           int micro, const char *package);

/*
 * Asks the running program. Returns false when it is no QEMU system emulator,
 * or one that does not export its functions.
 */
bool cloudblk_identity_of_process(CloudblkQemuIdentity *identity);

#endif
