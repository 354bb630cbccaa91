/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Compiled as strict C99: cloudblk.h has to stand alone in a C program. */
#include "cloudblk.h"

int cloudblk_c99_smoke(char *error, size_t error_size);

int cloudblk_c99_smoke(char *error, size_t error_size)
{
    CloudblkSession *session = 0;
    CloudblkOptions options = {0};

    options.size = sizeof(options);
    options.abi_version = CLOUDBLK_ABI_VERSION;
    options.server = "nbds://localhost/export";
    options.channels = 1;
    return cloudblk_session_open(&options, &session, error, error_size);
}
