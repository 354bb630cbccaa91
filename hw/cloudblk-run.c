/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who serves the queues and when: ioeventfd, reset, stop and continue.
 *
 * The channels follow the queues: they are attached to their IOThreads while
 * ioeventfd is on and to the main loop otherwise, where all waiting is done and
 * everything is given up. So neither needs a lock, and no IOThread ever waits
 * for a server.
 */
#include "cloudblk-device.h"

#include "hw/virtio/virtio-bus.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"

#include "cloudblk-loop.h"
#include "cloudblk-memory.h"
#include "cloudblk-queue.h"

/*
 * How long a stop of the VM may wait for requests in flight and for the
 * flushes, all disks together. What is left then is kept: it goes on after the
 * VM continues, here or after a migration.
 */
#define DRAIN_NS (300 * SCALE_MS)

struct CloudblkDeviceList cloudblk_devices =
    QLIST_HEAD_INITIALIZER(cloudblk_devices);

/* ---- ioeventfd ---- */

static VirtioBusState *bus_of(CloudblkDevice *dev)
{
    return VIRTIO_BUS(qdev_get_parent_bus(DEVICE(dev)));
}

static int set_guest_notifiers(CloudblkDevice *dev, bool assign)
{
    BusState *qbus = qdev_get_parent_bus(DEVICE(dev));
    VirtioBusClass *k = VIRTIO_BUS_GET_CLASS(qbus);

    /* The main loop injects interrupts directly */
    return dev->has_iothread
               ? k->set_guest_notifiers(qbus->parent, dev->conf.num_queues,
                                        assign)
               : 0;
}

/* Turns the first `count` host notifiers off. */
static void clear_host_notifiers(CloudblkDevice *dev, unsigned count)
{
    unsigned i;

    /*
     * One transaction: each would otherwise walk all ioeventfds of the machine
     */
    memory_region_transaction_begin();
    for (i = 0; i < count; i++) {
        virtio_bus_set_host_notifier(bus_of(dev), i, false);
    }
    /* The commit still needs the descriptors, hence the second loop */
    memory_region_transaction_commit();
    for (i = 0; i < count; i++) {
        virtio_bus_cleanup_host_notifier(bus_of(dev), i);
    }
}

static int set_host_notifiers(CloudblkDevice *dev)
{
    unsigned i;
    int ret = 0;

    memory_region_transaction_begin();
    for (i = 0; i < dev->conf.num_queues; i++) {
        ret = virtio_bus_set_host_notifier(bus_of(dev), i, true);
        if (ret < 0) {
            break;
        }
    }
    memory_region_transaction_commit();
    if (ret < 0) {
        clear_host_notifiers(dev, i);
    }
    return ret;
}

/* In the loop's context, with the channel parked: starts serving. */
static void start_loop(void *opaque)
{
    CloudblkLoop *loop = opaque;
    CloudblkDevice *dev = cloudblk_device_of(loop->disk);
    unsigned i;

    if (!loop->attached) {
        cloudblk_loop_attach(loop, loop->context);
    }
    for (i = 0; i < dev->conf.num_queues; i++) {
        VirtQueue *vq = dev->queues[i].vq;

        if (dev->queues[i].loop != loop) {
            continue;
        }
        /* An earlier detach may have come while the queue was polled */
        if (!virtio_queue_get_notification(vq)) {
            virtio_queue_set_notification(vq, 1);
        }
        virtio_queue_aio_attach_host_notifier(vq, loop->context);
        /* Take what was queued before somebody listened */
        event_notifier_set(virtio_queue_get_host_notifier(vq));
    }
}

/*
 * In the loop's context: stops serving and parks the channel, unless it can
 * stay.
 */
static void stop_loop(void *opaque)
{
    CloudblkLoop *loop = opaque;
    CloudblkDevice *dev = cloudblk_device_of(loop->disk);
    unsigned i;

    for (i = 0; i < dev->conf.num_queues; i++) {
        VirtQueue *vq = dev->queues[i].vq;

        if (dev->queues[i].loop != loop) {
            continue;
        }
        virtio_queue_aio_detach_host_notifier(vq, loop->context);
        /* A kick that came in before the detach */
        virtio_queue_host_notifier_read(virtio_queue_get_host_notifier(vq));
    }
    if (loop->context != qemu_get_aio_context()) {
        cloudblk_loop_detach(loop);
    }
}

/* Whether all of it can be accessed without a device model being asked. */
static bool area_in_ram(VirtIODevice *vdev, hwaddr address, hwaddr size,
                        bool is_write)
{
    RCU_READ_LOCK_GUARD();
    while (size) {
        hwaddr length = size, offset;
        MemoryRegion *mr =
            address_space_translate(vdev->dma_as, address, &offset, &length,
                                    is_write, MEMTXATTRS_UNSPECIFIED);

        if (!length || !memory_region_is_ram(mr) ||
            memory_region_is_ram_device(mr) ||
            (is_write && memory_region_is_rom(mr))) {
            return false;
        }
        address += length;
        size -= length;
    }
    return true;
}

static bool rings_in_ram(CloudblkDevice *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    /* Then answers go into the descriptors */
    bool packed = virtio_vdev_has_feature(vdev, VIRTIO_F_RING_PACKED);
    unsigned i;

    for (i = 0; i < dev->conf.num_queues; i++) {
        if (virtio_queue_get_desc_addr(vdev, i) &&
            (!area_in_ram(vdev, virtio_queue_get_desc_addr(vdev, i),
                          virtio_queue_get_desc_size(vdev, i), packed) ||
             !area_in_ram(vdev, virtio_queue_get_avail_addr(vdev, i),
                          virtio_queue_get_avail_size(vdev, i), false) ||
             !area_in_ram(vdev, virtio_queue_get_used_addr(vdev, i),
                          virtio_queue_get_used_size(vdev, i), true))) {
            return false;
        }
    }
    return true;
}

int cloudblk_start_ioeventfd(VirtIODevice *vdev)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);
    unsigned i;
    int ret;

    if (dev->ioeventfd_started || dev->ioeventfd_starting) {
        return 0;
    }
    if (!rings_in_ram(dev)) {
        /*
         * An access to anything else takes the big QEMU lock, which the main
         * loop holds while it waits for the loop of a queue
         */
        virtio_error(vdev, "cloudblk: virtqueue outside memory");
        return 0;
    }
    cloudblk_memory_watch(&dev->disk);
    dev->ioeventfd_starting = true;
    ret = set_guest_notifiers(dev, true);
    if (ret == 0) {
        ret = set_host_notifiers(dev);
        if (ret < 0) {
            set_guest_notifiers(dev, false);
        }
    }
    dev->ioeventfd_starting = false;
    if (ret < 0) {
        warn_report(
            "cloudblk: no notifiers (%s), the main loop serves the queues",
            strerror(-ret));
        dev->ioeventfd_disabled = true;
        return -ENOSYS;
    }
    dev->ioeventfd_started = true;
    for (i = 0; i < dev->disk.num_loops; i++) {
        CloudblkLoop *loop = &dev->disk.loops[i];

        if (loop->context != qemu_get_aio_context()) {
            cloudblk_loop_detach(loop);
        }
        cloudblk_compat_run_in(loop->context, start_loop, loop);
    }
    return 0;
}

void cloudblk_stop_ioeventfd(VirtIODevice *vdev)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);
    unsigned i;

    if (!dev->ioeventfd_started || dev->ioeventfd_stopping) {
        return;
    }
    dev->ioeventfd_stopping = true;
    for (i = 0; i < dev->disk.num_loops; i++) {
        cloudblk_compat_run_in(dev->disk.loops[i].context, stop_loop,
                               &dev->disk.loops[i]);
    }
    /* Before a kick that comes now is handed on: the channels are parked */
    dev->ioeventfd_started = false;
    clear_host_notifiers(dev, dev->conf.num_queues);
    set_guest_notifiers(dev, false);
    for (i = 0; i < dev->disk.num_loops; i++) {
        if (!dev->disk.loops[i].attached) {
            cloudblk_loop_attach(&dev->disk.loops[i], qemu_get_aio_context());
        }
    }
    dev->ioeventfd_stopping = false;
}

/*
 * A kick: from a loop while ioeventfd is on, from whoever wrote the register
 * otherwise.
 */
void cloudblk_handle_output(VirtIODevice *vdev, VirtQueue *vq)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);

    if (!dev->ioeventfd_started) {
        /*
         * A stopped VM's kick is not lost: all queues are looked at when it
         * continues
         */
        if (!dev->running) {
            return;
        }
        /* Some drivers kick before they set DRIVER_OK */
        if (!dev->ioeventfd_disabled) {
            virtio_device_start_ioeventfd(vdev);
            if (!dev->ioeventfd_disabled) {
                return;
            }
        }
        cloudblk_memory_watch(&dev->disk);
    }
    cloudblk_queue_run(&dev->queues[virtio_get_queue_index(vq)]);
}

/* ---- Waiting and giving up, in the main loop ---- */

static uint32_t in_flight(CloudblkDevice *dev)
{
    uint32_t count = 0;
    unsigned i;

    for (i = 0; i < dev->disk.num_loops; i++) {
        count += cloudblk_channel_in_flight(dev->disk.loops[i].channel);
    }
    return count;
}

static void wake_up(void *opaque)
{
}

/* Once nothing is in flight, flushes. Whether that is done too. */
static bool is_drained(CloudblkDevice *dev)
{
    assert(!dev->ioeventfd_started);
    if (!in_flight(dev) && dev->flush_wanted) {
        dev->flush_wanted = false;
        cloudblk_loop_flush(&dev->disk.loops[0]);
    }
    return !in_flight(dev);
}

/* Whether that device is, or, if it is NULL, all are. */
static bool are_drained(CloudblkDevice *only)
{
    CloudblkDevice *dev;
    bool drained = true;

    QLIST_FOREACH(dev, &cloudblk_devices, next) {
        if (!only || dev == only) {
            drained = is_drained(dev) && drained;
        }
    }
    return drained;
}

void cloudblk_drain(CloudblkDevice *only)
{
    AioContext *context = qemu_get_aio_context();
    int64_t deadline = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + DRAIN_NS;
    CloudblkDevice *dev;
    QEMUTimer timer;

    QLIST_FOREACH(dev, &cloudblk_devices, next) {
        /* At a migration the server does it, with the RELEASE */
        dev->flush_wanted = dev->info.write_cache && !dev->disk.read_only &&
                            !runstate_check(RUN_STATE_FINISH_MIGRATE);
        dev->stop_drained = !only;
    }
    aio_timer_init(context, &timer, QEMU_CLOCK_REALTIME, SCALE_NS, wake_up,
                   NULL);
    timer_mod_ns(&timer, deadline);
    while (!are_drained(only) &&
           qemu_clock_get_ns(QEMU_CLOCK_REALTIME) < deadline) {
        aio_poll(context, true);
    }
    timer_del(&timer);
}

/*
 * Takes what is in flight back from the engine, and begins the disposition that
 * says what becomes of it and of all that comes later.
 */
static void take_back(CloudblkDevice *dev, CloudblkDisposition disposition)
{
    unsigned i;

    assert(!dev->ioeventfd_started);
    dev->disk.disposition = disposition;
    for (i = 0; i < dev->disk.num_loops; i++) {
        cloudblk_channel_revoke(dev->disk.loops[i].channel);
    }
}

void cloudblk_revoke(CloudblkDevice *dev)
{
    unsigned i;

    take_back(dev, CLOUDBLK_DROP);
    for (i = 0; i < dev->conf.num_queues; i++) {
        cloudblk_queue_forget(&dev->queues[i]);
    }
}

/* That of a disk which is neither being reset nor removed. */
static CloudblkDisposition disposition_of_vm(CloudblkDevice *dev)
{
    return dev->running ? CLOUDBLK_ANSWER : CLOUDBLK_KEEP;
}

void cloudblk_reset(VirtIODevice *vdev)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);

    if (dev->session) {
        cloudblk_revoke(dev);
        /* The reset is over, and what comes now is a new driver's */
        dev->disk.disposition = disposition_of_vm(dev);
    }
    qatomic_set(&dev->disk.write_cache, dev->default_write_cache);
}

/* ---- Stop and continue ---- */

/* Serves what the guest queued while the VM was stopped. */
static void resume(void *opaque)
{
    CloudblkDevice *dev = opaque;
    unsigned i;

    if (!dev->running || dev->ioeventfd_started) {
        return;
    }
    for (i = 0; i < dev->conf.num_queues; i++) {
        cloudblk_queue_run(&dev->queues[i]);
    }
}

static void retry_loop(void *opaque)
{
    CloudblkLoop *loop = opaque;
    CloudblkDevice *dev = cloudblk_device_of(loop->disk);
    unsigned i;

    for (i = 0; i < dev->conf.num_queues; i++) {
        if (dev->queues[i].loop == loop) {
            cloudblk_queue_retry(&dev->queues[i]);
            cloudblk_queue_run(&dev->queues[i]);
        }
    }
}

/* Tries what is kept again, unless the VM has stopped meanwhile. Main loop. */
static void retry_now(void *opaque)
{
    CloudblkDevice *dev = opaque;
    unsigned i;

    if (!dev->running) {
        return;
    }
    qatomic_set(&dev->io_status, BLOCK_DEVICE_IO_STATUS_OK);
    for (i = 0; i < dev->disk.num_loops; i++) {
        cloudblk_compat_run_in(dev->ioeventfd_started
                                   ? dev->disk.loops[i].context
                                   : qemu_get_aio_context(),
                               retry_loop, &dev->disk.loops[i]);
    }
}

static void vm_state_changed(void *opaque, bool running, RunState state)
{
    CloudblkDevice *dev = opaque;
    unsigned i;

    if (running == dev->running) {
        return;
    }
    dev->running = running;
    if (running) {
        dev->stop_drained = false;
        dev->disk.disposition = CLOUDBLK_ANSWER;
        cloudblk_migration_run(dev);
        qatomic_set(&dev->io_status, BLOCK_DEVICE_IO_STATUS_OK);
        for (i = 0; i < dev->conf.num_queues; i++) {
            cloudblk_queue_retry(&dev->queues[i]);
        }
        qemu_bh_schedule(dev->resume_bh);
        /* A size that the guest was told of by nobody, as of a migration */
        qemu_bh_schedule(dev->config_bh);
    } else {
        if (!dev->stop_drained) {
            cloudblk_drain(NULL);
        }
        /*
         * The channels stay attached, to keep the session alive, but have no
         * guest memory to write
         */
        take_back(dev, CLOUDBLK_KEEP);
    }
}

void cloudblk_run_init(CloudblkDevice *dev)
{
    dev->ioeventfd_disabled =
        !virtio_device_ioeventfd_enabled(VIRTIO_DEVICE(dev));
    /* No handler is called when it wakes up */
    dev->running =
        runstate_is_running() || runstate_check(RUN_STATE_SUSPENDED);
    dev->disk.disposition = disposition_of_vm(dev);
    dev->resume_bh = qemu_bh_new(resume, dev);
    dev->stop_timer = timer_new_ms(QEMU_CLOCK_REALTIME, retry_now, dev);
    /*
     * It has to be called before virtio's own handler starts the queues, and
     * after that one stopped them. So it is registered before virtio_init()
     * registers that one, and without the device's depth in the tree, which
     * would put it behind those of its parents
     */
    dev->vm_state = qemu_add_vm_change_state_handler(vm_state_changed, dev);
}

void cloudblk_run_cleanup(CloudblkDevice *dev)
{
    qemu_del_vm_change_state_handler(dev->vm_state);
    qemu_bh_delete(dev->resume_bh);
    timer_free(dev->stop_timer);
}
