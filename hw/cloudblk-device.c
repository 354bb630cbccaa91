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
/* Of libcloudblk, for open-timeout=0. */
#define DEFAULT_OPEN_TIMEOUT_MS 30000
/* What the second opening gets at least. */
#define OPEN_MIN_MS 1000

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
    if (kind == CLOUDBLK_EVENT_REVOKED && value) {
        cloudblk_stop_moved();
    }
}

/* To observe, or to be active. NULL: error is set. */
static CloudblkSession *open_session(CloudblkDevice *dev, bool observe,
                                     uint32_t timeout_ms, Error **errp)
{
    CloudblkConf *conf = &dev->conf;
    CloudblkOptions options = {
        .size = sizeof(options),
        .abi_version = CLOUDBLK_ABI_VERSION,
        .server = conf->server,
        .channels = dev->disk.num_loops,
        .observe = observe,
        .read_only = conf->read_only,
        .share_rw = conf->share_rw,
        .takeover = conf->takeover,
        .payload_crc = conf->payload_crc,
        .open_timeout_ms = timeout_ms,
        .answer_timeout_ms = conf->server_timeout * 1000,
        .event = session_event,
        .event_opaque = dev,
        .log = cloudblk_loop_log,
    };
    CloudblkSession *session;
    CloudblkTls tls = { 0 };
    char message[512];
    int opened;

    if (conf->tls_creds) {
        if (!cloudblk_tls_find(dev, &tls, errp)) {
            cloudblk_tls_clear(&tls);
            return NULL;
        }
        options.tls = &tls;
    }
    opened =
        cloudblk_session_open(&options, &session, message, sizeof(message));
    cloudblk_tls_clear(&tls);
    if (opened < 0) {
        error_setg(errp, "%s", message);
        return NULL;
    }
    return session;
}

static void set_session(CloudblkDevice *dev, CloudblkSession *session)
{
    unsigned i;

    dev->session = session;
    dev->info.size = sizeof(dev->info);
    cloudblk_session_info(session, &dev->info);
    for (i = 0; i < dev->disk.num_loops; i++) {
        dev->disk.loops[i].channel = cloudblk_session_channel(session, i);
        cloudblk_channel_set_request_timeout(dev->disk.loops[i].channel,
                                             dev->conf.request_timeout_s);
    }
}

/*
 * Opens the volume to observe, which disturbs nobody who has it: what it is
 * like is needed to judge the properties.
 */
static bool observe(CloudblkDevice *dev, Error **errp)
{
    int64_t began = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    CloudblkSession *session =
        open_session(dev, true, dev->conf.open_timeout_ms, errp);

    if (!session) {
        return false;
    }
    set_session(dev, session);
    dev->open_took_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - began;
    return true;
}

/* What is left of the time that both openings together may take. */
static uint32_t open_time_left(CloudblkDevice *dev)
{
    uint32_t all = dev->conf.open_timeout_ms ?: DEFAULT_OPEN_TIMEOUT_MS;
    uint32_t least = MIN(all, OPEN_MIN_MS);

    return MAX(all - MIN(dev->open_took_ms, all), least);
}

/* Whether the properties were judged by this volume. Its size may change. */
static bool is_as_judged(const CloudblkInfo *judged, const CloudblkInfo *now)
{
    return !memcmp(judged->volume_uuid, now->volume_uuid,
                   sizeof(now->volume_uuid)) &&
           judged->logical_block_size == now->logical_block_size &&
           judged->physical_block_size == now->physical_block_size &&
           judged->optimal_io_size == now->optimal_io_size &&
           judged->discard_granularity == now->discard_granularity &&
           judged->max_ranges == now->max_ranges &&
           judged->max_discard_bytes == now->max_discard_bytes &&
           judged->max_write_zeroes_bytes == now->max_write_zeroes_bytes &&
           judged->read_only == now->read_only &&
           judged->write_cache == now->write_cache;
}

bool cloudblk_activate(CloudblkDevice *dev, Error **errp)
{
    CloudblkInfo judged = dev->info;
    CloudblkSession *observer = dev->session;
    CloudblkSession *session;
    unsigned i;

    /* It observes until the stream says which session this continues */
    if (runstate_check(RUN_STATE_INMIGRATE)) {
        return true;
    }
    session = open_session(dev, false, open_time_left(dev), errp);
    if (!session) {
        return false;
    }
    for (i = 0; i < dev->disk.num_loops; i++) {
        cloudblk_loop_detach(&dev->disk.loops[i]);
    }
    cloudblk_session_close(observer, CLOSE_TIMEOUT_MS);
    set_session(dev, session);
    for (i = 0; i < dev->disk.num_loops; i++) {
        cloudblk_loop_attach(&dev->disk.loops[i], qemu_get_aio_context());
    }
    if (!is_as_judged(&judged, &dev->info)) {
        error_setg(errp, "%s has changed while it was being opened, try again",
                   dev->conf.server);
        return false;
    }
    qatomic_set(&dev->disk.capacity, dev->info.size_bytes);
    return true;
}

/*
 * The last thing before the machine is reset for the first time: all devices
 * are there, and none of their properties ends QEMU any more.
 */
static void machine_done(Notifier *notifier, void *data)
{
    CloudblkDevice *dev = container_of(notifier, CloudblkDevice, machine_done);
    Error *err = NULL;

    if (!DEVICE(dev)->hotplugged && !cloudblk_activate(dev, &err)) {
        error_reportf_err(err, "cloudblk: ");
        exit(1);
    }
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
    if (!observe(dev, errp)) {
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
    dev->machine_done.notify = machine_done;
    qemu_add_machine_init_done_notifier(&dev->machine_done);
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
    qemu_remove_machine_init_done_notifier(&dev->machine_done);
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
