/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entry points of a device library: the device and its engine, built for one
 * QEMU release. The file can be named in -plugin or LD_PRELOAD itself, or be
 * opened by cloudblk.so.
 */
#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qemu/qemu-plugin.h"
#include "qom/object.h"
#include "qemu-version.h"

#include "identity.h"
#include "layout.h"

#define MAX_INIT_FUNCTIONS 16

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static void (*init_functions[MAX_INIT_FUNCTIONS])(void);
static int n_init_functions;

/*
 * Stands in for QEMU's register_module_init() in the device's sources: a
 * plugin comes too late for QEMU's own list, so type_init() collects here.
 */
void cloudblk_register_module_init(void (*fn)(void), module_init_type type);

void cloudblk_register_module_init(void (*fn)(void), module_init_type type)
{
    assert(type == MODULE_INIT_QOM && n_init_functions < MAX_INIT_FUNCTIONS);
    init_functions[n_init_functions++] = fn;
}

static void register_types(void)
{
    static bool done;

    /*
     * Another copy of this file, or a QEMU with the device compiled in (maybe
     * as a module, which this loads), was first.
     */
    if (done || module_object_class_by_name("cloudblk-pci")) {
        return;
    }
    done = true;
    for (int i = 0; i < n_init_functions; i++) {
        init_functions[i]();
    }
}

static void check_release(void)
{
    CloudblkQemuIdentity built_for, here;
    int major = 0, minor = 0, micro = 0;

    sscanf(QEMU_VERSION, "%d.%d.%d", &major, &minor, &micro);
    cloudblk_identity_set(&built_for, major, minor, micro, QEMU_PKGVERSION);
    if (!cloudblk_identity_of_process(&here)) {
        fprintf(stderr, "cloudblk: this program is no QEMU system emulator\n");
        exit(1);
    }
    if (strcmp(built_for.file_part, here.file_part)) {
        fprintf(stderr,
                "cloudblk: this device library was built for QEMU %s and does "
                "not fit QEMU %s; make one with scripts/build-plugin\n",
                built_for.shown, here.shown);
        exit(1);
    }
}

static void __attribute__((constructor)) start(void)
{
    check_release();
    /*
     * Preloaded: QEMU's main() has not run, and its list of types is still to
     * come.
     */
    if (!object_class_by_name(TYPE_OBJECT)) {
        register_module_init(register_types, MODULE_INIT_QOM);
        /*
         * The next stage after the types: all those to compare with are known
         * then.
         */
        register_module_init(cloudblk_check_layout, MODULE_INIT_MIGRATION);
    }
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    cloudblk_check_layout();
    register_types();
    return 0;
}
