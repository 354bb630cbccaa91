/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who serves the queues: their loops while ioeventfd is on, and whoever kicks
 * otherwise.
 *
 * The channels follow the queues: they are attached to their IOThreads while
 * ioeventfd is on and to the main loop otherwise. So neither needs a lock.
 */
#include "cloudblk-device.h"

#include "hw/virtio/virtio-bus.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"

#include "cloudblk-loop.h"
#include "cloudblk-memory.h"
#include "cloudblk-queue.h"

/* ---- Notifiers ---- */

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

/* ---- The loops' side ---- */

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

/* ---- Start and stop ---- */

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
    /* Used elements of a packed ring go where its descriptors are */
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
    /*
     * Now, as the notifiers hand on a last kick when they are cleared, and no
     * loop is there to serve it: start_loop() looks at the queues anyway
     */
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
