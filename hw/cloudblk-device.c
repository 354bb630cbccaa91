/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio device: its session, realize and unrealize. */
#include "cloudblk-device.h"

#include "hw/virtio/virtio-bus.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "standard-headers/linux/virtio_ids.h"

#include "cloudblk-loop.h"
#include "cloudblk-memory.h"

/* How long the farewell to the server may take, at exit all disks' together. */
#define CLOSE_TIMEOUT_MS 200
/* What a disk gets at least, after others have used up the time at exit. */
#define CLOSE_MIN_MS 5

#define BOOT_SUFFIX "/disk@0,0"

/* ---- Session ---- */

/*
 * Takes over the volume's size, and tells the guest if it knows another or if
 * the device has stopped. Main loop.
 */
static void config_changed(void *opaque)
{
    CloudblkDevice *dev = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    CloudblkInfo info = { .size = sizeof(info) };
    bool stopped;

    if (!dev->session) {
        return;
    }
    cloudblk_session_info(dev->session, &info);
    qatomic_set(&dev->disk.capacity, info.size_bytes);
    stopped = vdev->broken && !(vdev->status & VIRTIO_CONFIG_S_NEEDS_RESET) &&
              virtio_vdev_has_feature(vdev, VIRTIO_F_VERSION_1);
    if (stopped) {
        vdev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }
    if (stopped || cloudblk_config_is_stale(dev)) {
        virtio_notify_config(vdev);
    }
}

static void G_GNUC_PRINTF(2, 3) disk_broken(CloudblkDisk *disk,
                                            const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    error_vreport(format, arguments);
    va_end(arguments);
    /* A reset, which undoes it, waits for whoever serves the queues */
    disk->vdev->broken = true;
    /* To tell the guest takes the big QEMU lock: the main loop does it */
    qemu_bh_schedule(cloudblk_device_of(disk)->config_bh);
}

static const CloudblkDiskOps disk_ops = {
    .broken = disk_broken,
    .error_action = cloudblk_error_action,
    .error_raise = cloudblk_error_raise,
};

/* From any of the loops. */
static void session_event(void *opaque, CloudblkEventKind kind, uint64_t value,
                          const char *text)
{
    CloudblkDevice *dev = opaque;

    /*
     * Two loops may tell of two resizes in the wrong order: what the session
     * has when the main loop asks is right
     */
    if (kind == CLOUDBLK_EVENT_RESIZED) {
        qemu_bh_schedule(dev->config_bh);
    }
    if (kind == CLOUDBLK_EVENT_REVOKED) {
        cloudblk_stop_if_moved(dev);
    }
}

static bool open_session(CloudblkDevice *dev, Error **errp)
{
    CloudblkConf *conf = &dev->conf;
    CloudblkOptions options = {
        .size = sizeof(options),
        .abi_version = CLOUDBLK_ABI_VERSION,
        .server = conf->server,
        .channels = dev->disk.num_loops,
        /* Until the migration stream says which session this continues */
        .observe = runstate_check(RUN_STATE_INMIGRATE),
        .read_only = conf->read_only,
        .share_rw = conf->share_rw,
        .takeover = conf->takeover,
        .payload_crc = conf->payload_crc,
        .open_timeout_ms = conf->open_timeout_ms,
        .event = session_event,
        .event_opaque = dev,
    };
    char message[512];
    unsigned i;

    if (cloudblk_session_open(&options, &dev->session, message,
                              sizeof(message)) < 0) {
        error_setg(errp, "%s", message);
        return false;
    }
    dev->info.size = sizeof(dev->info);
    cloudblk_session_info(dev->session, &dev->info);
    for (i = 0; i < dev->disk.num_loops; i++) {
        dev->disk.loops[i].channel = cloudblk_session_channel(dev->session, i);
    }
    return true;
}

/* Nothing may be served any more. */
static void close_session(CloudblkDevice *dev, unsigned timeout_ms)
{
    unsigned i;

    cloudblk_revoke(dev);
    for (i = 0; i < dev->disk.num_loops; i++) {
        cloudblk_loop_detach(&dev->disk.loops[i]);
    }
    cloudblk_session_close(dev->session, timeout_ms);
    dev->session = NULL;
}

/*
 * QEMU exits without unrealizing devices. Frees the volume for the next one who
 * wants it.
 */
static void close_at_exit(Notifier *notifier, void *data)
{
    static int64_t deadline; /* of all disks; 0: this is the first one */
    CloudblkDevice *dev = container_of(notifier, CloudblkDevice, exit_notifier);
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    deadline = deadline ?: now + CLOSE_TIMEOUT_MS;
    /* Older releases do not tell of the end of a VM that sleeps */
    if (dev->ioeventfd_started && qemu_in_main_thread() &&
        runstate_check(RUN_STATE_SUSPENDED)) {
        virtio_bus_stop_ioeventfd(
            VIRTIO_BUS(qdev_get_parent_bus(DEVICE(dev))));
    }
    /*
     * A regular exit has stopped the VM. After another one, from within an
     * IOThread say, the channels are in use and left as they are: the server
     * notices.
     */
    if (!dev->ioeventfd_started && qemu_in_main_thread()) {
        close_session(dev, MAX(deadline - now, CLOSE_MIN_MS));
    }
}

/* ---- Realize ---- */

static void add_queues(CloudblkDevice *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    unsigned i;

    virtio_init(vdev, VIRTIO_ID_BLOCK, dev->config_size);
    for (i = 0; i < dev->conf.num_queues; i++) {
        dev->queues[i].vq = virtio_add_queue(vdev, dev->conf.queue_size,
                                             cloudblk_handle_output);
    }
}

static void cloudblk_device_realize(DeviceState *qdev, Error **errp)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(qdev);
    unsigned i;

    if (replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "a cloudblk disk cannot take part in record and "
                         "replay: what its server does is not recorded");
        return;
    }
    dev->disk.vdev = VIRTIO_DEVICE(dev);
    dev->disk.ops = &disk_ops;
    if (!cloudblk_config_check(dev, errp) ||
        !cloudblk_iothreads_init(dev, errp)) {
        return;
    }
    dev->config_bh = qemu_bh_new(config_changed, dev);
    if (!open_session(dev, errp)) {
        goto fail;
    }
    if (!cloudblk_config_init(dev, errp)) {
        close_session(dev, CLOSE_TIMEOUT_MS);
        goto fail;
    }
    dev->ioeventfd_disabled =
        !virtio_device_ioeventfd_enabled(VIRTIO_DEVICE(dev));
    cloudblk_run_init(dev);
    add_queues(dev);
    for (i = 0; i < dev->disk.num_loops; i++) {
        cloudblk_loop_attach(&dev->disk.loops[i], qemu_get_aio_context());
    }
    dev->migration_watch.failed = cloudblk_migration_failed;
    cloudblk_compat_migration_watch(&dev->migration_watch);
    dev->exit_notifier.notify = close_at_exit;
    qemu_add_exit_notifier(&dev->exit_notifier);
    QLIST_INSERT_HEAD(&cloudblk_devices, dev, next);
    add_boot_device_lchs(qdev, BOOT_SUFFIX, dev->conf.lcyls, dev->conf.lheads,
                         dev->conf.lsecs);
    return;

fail:
    qemu_bh_delete(dev->config_bh);
    cloudblk_iothreads_cleanup(dev);
}

static void cloudblk_device_unrealize(DeviceState *qdev)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(qdev);
    VirtIODevice *vdev = VIRTIO_DEVICE(qdev);
    unsigned i;

    del_boot_device_lchs(qdev, BOOT_SUFFIX);
    qemu_remove_exit_notifier(&dev->exit_notifier);
    cloudblk_compat_migration_unwatch(&dev->migration_watch);
    if (dev->running) {
        cloudblk_drain(dev);
    }
    close_session(dev, CLOSE_TIMEOUT_MS);
    cloudblk_memory_unwatch(&dev->disk);
    QLIST_REMOVE(dev, next);
    cloudblk_run_cleanup(dev);
    for (i = 0; i < dev->conf.num_queues; i++) {
        virtio_del_queue(vdev, i);
    }
    virtio_cleanup(vdev);
    qemu_bh_delete(dev->config_bh);
    cloudblk_iothreads_cleanup(dev);
}

/* ---- Type ---- */

static void cloudblk_device_instance_init(Object *obj)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(obj);

    device_add_bootindex_property(obj, &dev->conf.bootindex, "bootindex",
                                  BOOT_SUFFIX, DEVICE(obj));
    object_property_set_description(obj, "bootindex",
                                    "place in the boot order");
    cloudblk_machine_defaults(obj, "virtio-blk-device");
}

static void cloudblk_device_class_init(ObjectClass *klass,
                                       CLOUDBLK_CLASS_DATA *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);

    cloudblk_error_class_init(klass);
    cloudblk_properties_class_init(klass);
    dc->desc = "block device on a storage server";
    set_bit(DEVICE_CATEGORY_STORAGE, dc->categories);
    dc->vmsd = &cloudblk_vmstate;
    vdc->realize = cloudblk_device_realize;
    vdc->unrealize = cloudblk_device_unrealize;
    vdc->get_config = cloudblk_get_config;
    vdc->set_config = cloudblk_set_config;
    vdc->get_features = cloudblk_get_features;
    vdc->set_status = cloudblk_set_status;
    vdc->reset = cloudblk_reset;
    vdc->start_ioeventfd = cloudblk_start_ioeventfd;
    vdc->stop_ioeventfd = cloudblk_stop_ioeventfd;
}

static const TypeInfo cloudblk_device_info = {
    .name = TYPE_CLOUDBLK_DEVICE,
    .parent = TYPE_VIRTIO_DEVICE,
    .instance_size = sizeof(CloudblkDevice),
    .instance_init = cloudblk_device_instance_init,
    .class_init = cloudblk_device_class_init,
};

static void cloudblk_device_register_types(void)
{
    type_register_static(&cloudblk_device_info);
}

type_init(cloudblk_device_register_types)
