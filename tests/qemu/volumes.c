/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include <sys/prctl.h>

#include "libqtest.h"
#include "libqos/qgraph.h"

#include "hw/block/cloudblk/tests/qemu/volumes.h"

#define VOLUME_URI "memory:?size=64M"
#define SOCKET_NAME "socket"

/* One test runs at a time, each with its own proxy. */
static GPid proxy;
static char *folder;
static char *uri;

static void stop_proxy(void *unused)
{
    g_autofree char *path = g_build_filename(folder, SOCKET_NAME, NULL);

    kill(proxy, SIGKILL);
    waitpid(proxy, NULL, 0);
    unlink(path);
    rmdir(folder);
    g_clear_pointer(&folder, g_free);
    g_clear_pointer(&uri, g_free);
    /* The next test must not find this QEMU, whose server is gone. */
    qos_invalidate_command_line();
}

/* A failed assertion ends this program at once, and must not leave the proxy behind. */
static void die_with_test(void *unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Reads what the proxy says until it listens. */
static void wait_until_listening(int fd)
{
    g_autoptr(GIOChannel) output = g_io_channel_unix_new(fd);
    bool listening = false;

    while (!listening) {
        g_autofree char *line = NULL;

        g_assert_cmpint(g_io_channel_read_line(output, &line, NULL, NULL, NULL), ==,
                        G_IO_STATUS_NORMAL);
        listening = strstr(line, "listening on ") != NULL;
    }
}

void *cloudblk_test_setup(GString *cmd_line, void *arg)
{
    const char *program = getenv("CLOUDBLK_PROXY");
    g_autofree char *listen = NULL;
    g_autoptr(GError) error = NULL;
    int output;

    g_assert_nonnull(program);
    folder = g_dir_make_tmp("cloudblk-XXXXXX", &error);
    g_assert_no_error(error);
    listen = g_strdup_printf("unix://%s/" SOCKET_NAME, folder);
    const char *command[] = { program,    "--listen",           listen,
                              "--volume", "drive0=" VOLUME_URI, "--volume",
                              "drive1=" VOLUME_URI, NULL };
    g_spawn_async_with_pipes(NULL, (char **)command, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                             die_with_test, NULL, &proxy, NULL, &output, NULL, &error);
    g_assert_no_error(error);
    g_test_queue_destroy(stop_proxy, NULL);
    wait_until_listening(output);
    g_string_append_printf(cmd_line, " -global cloudblk-pci.server=%s ",
                           cloudblk_test_uri("drive0"));
    return arg;
}

const char *cloudblk_test_uri(const char *volume)
{
    g_free(uri);
    uri = g_strdup_printf("cloudblk+unix:///%s?socket=%s/" SOCKET_NAME, volume, folder);
    return uri;
}

void cloudblk_test_resize(const char *volume, int64_t size)
{
    g_autofree char *bytes = g_strdup_printf("%" PRId64, size);
    const char *command[] = { getenv("CLOUDBLK"), "resize", "--force",
                              cloudblk_test_uri(volume), bytes, NULL };
    g_autoptr(GError) error = NULL;
    int status;

    g_assert_nonnull(command[0]);
    g_spawn_sync(NULL, (char **)command, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, NULL, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
}
