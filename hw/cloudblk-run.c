/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What becomes of the requests when the VM stops and continues, and when the
 * disk is reset. The main loop waits for them and gives them up, after
 * cloudblk-ioeventfd.c has brought the channels there. So no IOThread ever
 * waits for a server.
 */
#include "cloudblk-device.h"

#include "hw/virtio/virtio-bus.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"

#include "cloudblk-loop.h"
#include "cloudblk-queue.h"

/*
 * How long a stop of the VM may wait for requests in flight and for the
 * flushes, all disks together. What is left then is kept: it goes on after the
 * VM continues, here or after a migration.
 */
#define DRAIN_NS (300 * SCALE_MS)

/* ---- Waiting and giving up ---- */

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
 * Begins another disposition, and takes back from the engine what is in flight:
 * it completes before this returns.
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

/* As cloudblk_revoke(). What comes afterwards is a new driver's. */
static void revoke_for_reset(CloudblkDevice *dev)
{
    cloudblk_revoke(dev);
    dev->disk.disposition = disposition_of_vm(dev);
}

void cloudblk_reset(VirtIODevice *vdev)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);

    if (dev->session) {
        revoke_for_reset(dev);
    }
    qatomic_set(&dev->disk.write_cache, dev->default_write_cache);
}

/* ---- Reset of the machine ---- */

/*
 * One for all disks, and for good: a disk that goes with a reset could not
 * unregister a handler of its own then, as QEMU is going through them.
 */
static bool asleep;

static void fall_asleep(Notifier *notifier, void *data)
{
    asleep = true;
}

static void wake_up_machine(Notifier *notifier, void *data)
{
    asleep = false;
}

/* Opens a volume that was lost anew, if it may be had. */
static void reopen(CloudblkDevice *dev)
{
    CloudblkInfo info = { .size = sizeof(info) };

    cloudblk_session_info(dev->session, &info);
    if (!info.lost) {
        return;
    }
    /* It may come before the reset of the buses, which does the same */
    virtio_bus_stop_ioeventfd(VIRTIO_BUS(qdev_get_parent_bus(DEVICE(dev))));
    revoke_for_reset(dev);
    cloudblk_session_reopen(dev->session);
}

/*
 * The guest is gone, with all that it knew of a disk that somebody else has
 * written to meanwhile. Not so one that wakes up, for which QEMU resets the
 * devices too: it runs already then.
 */
static void machine_reset(void *opaque)
{
    CloudblkDevice *dev;

    if (asleep && runstate_is_running()) {
        return;
    }
    asleep = false;
    QLIST_FOREACH(dev, &cloudblk_devices, next) {
        reopen(dev);
    }
}

static void watch_machine(void)
{
    static Notifier suspend = { .notify = fall_asleep };
    static Notifier wakeup = { .notify = wake_up_machine };
    static bool watched;

    if (watched) {
        return;
    }
    watched = true;
    asleep = runstate_check(RUN_STATE_SUSPENDED);
    qemu_register_suspend_notifier(&suspend);
    qemu_register_wakeup_notifier(&wakeup);
    qemu_register_reset(machine_reset, NULL);
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
        /* The size may have changed while nobody told the guest of it */
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
    /* One that sleeps runs: no handler is called when it wakes up */
    dev->running =
        runstate_is_running() || runstate_check(RUN_STATE_SUSPENDED);
    dev->disk.disposition = disposition_of_vm(dev);
    watch_machine();
    dev->resume_bh = qemu_bh_new(resume, dev);
    dev->stop_timer = timer_new_ms(QEMU_CLOCK_REALTIME, retry_now, dev);
    /*
     * Its priority is 0, and that of virtio's own handlers the device's depth
     * in the tree. So it is called before any of them starts queues, and after
     * all of them have stopped theirs: cloudblk_drain() waits for all disks
     */
    dev->vm_state = qemu_add_vm_change_state_handler(vm_state_changed, dev);
}

void cloudblk_run_cleanup(CloudblkDevice *dev)
{
    qemu_del_vm_change_state_handler(dev->vm_state);
    qemu_bh_delete(dev->resume_bh);
    timer_free(dev->stop_timer);
}
