/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When requests fail, and what becomes of those that did: request-timeout,
 * werror and rerror.
 */
#include "cloudblk-device.h"

#include "qapi/qapi-types-block-core.h"
#include "qapi/visitor.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"

/*
 * The machine stops long before. If it does not, a `cont` came first and took
 * the stop back, of which no handler is told. So the requests are tried again
 * after this time.
 */
#define STOP_TIMEOUT_MS 100

BlockErrorAction cloudblk_error_action(CloudblkDisk *disk, bool is_read,
                                       int error)
{
    CloudblkConf *conf = &cloudblk_device_of(disk)->conf;
    BlockdevOnError on_error = is_read ? conf->rerror : conf->werror;

    if (on_error == BLOCKDEV_ON_ERROR_AUTO) {
        /* As QEMU's own disks: a full storage can be given more room */
        on_error =
            is_read ? BLOCKDEV_ON_ERROR_REPORT : BLOCKDEV_ON_ERROR_ENOSPC;
    }
    switch (on_error) {
    case BLOCKDEV_ON_ERROR_STOP:
        return BLOCK_ERROR_ACTION_STOP;
    case BLOCKDEV_ON_ERROR_ENOSPC:
        return error == ENOSPC ? BLOCK_ERROR_ACTION_STOP
                               : BLOCK_ERROR_ACTION_REPORT;
    case BLOCKDEV_ON_ERROR_IGNORE:
        return BLOCK_ERROR_ACTION_IGNORE;
    default:
        return BLOCK_ERROR_ACTION_REPORT;
    }
}

void cloudblk_error_raise(CloudblkDisk *disk, BlockErrorAction action,
                          bool is_read, int error)
{
    CloudblkDevice *dev = cloudblk_device_of(disk);
    g_autofree char *path = object_get_canonical_path(OBJECT(dev));
    /* Releases without the path in the event know a disk by its name only */
    const char *id = qdev_get_parent_bus(DEVICE(dev))->parent->id;
    bool stop = action == BLOCK_ERROR_ACTION_STOP;

    if (stop) {
        /* The first error counts until the VM continues */
        qatomic_cmpxchg(&dev->io_status, BLOCK_DEVICE_IO_STATUS_OK,
                        error == ENOSPC ? BLOCK_DEVICE_IO_STATUS_NOSPACE
                                        : BLOCK_DEVICE_IO_STATUS_FAILED);
        /* The event STOP is to follow BLOCK_IO_ERROR, also if a `cont` comes */
        qemu_system_vmstop_request_prepare();
    }
    cloudblk_compat_io_error(
        path, id ?: "",
        is_read ? IO_OPERATION_TYPE_READ : IO_OPERATION_TYPE_WRITE, action,
        error == ENOSPC, strerror(error));
    if (stop) {
        qemu_system_vmstop_request(RUN_STATE_IO_ERROR);
        timer_mod(dev->stop_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + STOP_TIMEOUT_MS);
    }
}

static int get_io_status(Object *obj, Error **errp)
{
    return qatomic_read(&CLOUDBLK_DEVICE(obj)->io_status);
}

static char *get_server_status(Object *obj, Error **errp)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(obj);
    char text[512] = "not opened";

    if (dev->session) {
        cloudblk_session_status(dev->session, text, sizeof(text));
    }
    return g_strdup(text);
}

static void get_request_timeout(Object *obj, Visitor *v, const char *name,
                                void *opaque, Error **errp)
{
    visit_type_uint32(v, name, &CLOUDBLK_DEVICE(obj)->conf.request_timeout_s,
                      errp);
}

static void set_channel_timeout(void *opaque)
{
    CloudblkLoop *loop = opaque;

    cloudblk_channel_set_request_timeout(
        loop->channel, cloudblk_device_of(loop->disk)->conf.request_timeout_s);
}

static void set_request_timeout(Object *obj, Visitor *v, const char *name,
                                void *opaque, Error **errp)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(obj);
    uint32_t seconds;
    unsigned i;

    if (!visit_type_uint32(v, name, &seconds, errp)) {
        return;
    }
    dev->conf.request_timeout_s = seconds;
    if (!dev->session) {
        return;
    }
    for (i = 0; i < dev->disk.num_loops; i++) {
        cloudblk_compat_run_in(dev->ioeventfd_started
                                   ? dev->disk.loops[i].context
                                   : qemu_get_aio_context(),
                               set_channel_timeout, &dev->disk.loops[i]);
    }
}

void cloudblk_error_class_init(ObjectClass *klass)
{
    object_class_property_add_str(klass, "server-status", get_server_status,
                                  NULL);
    object_class_property_add_enum(klass, "io-status", "BlockDeviceIoStatus",
                                   &BlockDeviceIoStatus_lookup, get_io_status,
                                   NULL);
    /* Not among the others, as it can be set while the disk is in use */
    object_class_property_add(klass, "request-timeout", "uint32",
                              get_request_timeout, set_request_timeout, NULL,
                              NULL);
}
