/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's loop operations over AioContext, and the mapping of queues to
 * loops.
 */
#include "cloudblk-loop.h"

#include "hw/virtio/virtio-bus.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"

#include "cloudblk-request.h"
#include "cloudblk-ring.h"

/* ---- Operations lent to the engine ---- */

static void loop_watch_fd(void *loop, int fd, CloudblkHandler *read,
                          CloudblkHandler *write, CloudblkPoll *poll,
                          CloudblkHandler *poll_ready, void *opaque)
{
    cloudblk_compat_set_fd_handler(loop, fd, read, write, poll, poll_ready,
                                   opaque);
}

static void loop_defer(void *loop, CloudblkHandler *fn, void *opaque)
{
    aio_bh_schedule_oneshot_full(loop, fn, opaque, "cloudblk");
}

static void *loop_timer_new(void *loop, CloudblkHandler *fn, void *opaque)
{
    return aio_timer_new(loop, QEMU_CLOCK_REALTIME, SCALE_NS, fn, opaque);
}

static void loop_timer_arm(void *timer, int64_t deadline_ns)
{
    if (deadline_ns < 0) {
        timer_del(timer);
    } else {
        timer_mod_ns(timer, deadline_ns);
    }
}

static void loop_timer_free(void *timer)
{
    timer_free(timer);
}

static int64_t loop_now_ns(void *loop)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

static void loop_log(CloudblkLogLevel level, const char *message)
{
    switch (level) {
    case CLOUDBLK_LOG_ERROR:
        error_report("cloudblk: %s", message);
        break;
    case CLOUDBLK_LOG_WARNING:
        warn_report("cloudblk: %s", message);
        break;
    case CLOUDBLK_LOG_INFO:
        info_report("cloudblk: %s", message);
        break;
    case CLOUDBLK_LOG_DEBUG:
        break;
    }
}

static const CloudblkLoopOps loop_ops = {
    .size = sizeof(CloudblkLoopOps),
    .abi_version = CLOUDBLK_ABI_VERSION,
    .watch_fd = loop_watch_fd,
    .defer = loop_defer,
    .timer_new = loop_timer_new,
    .timer_arm = loop_timer_arm,
    .timer_free = loop_timer_free,
    .now_ns = loop_now_ns,
    .log = loop_log,
};

void cloudblk_loop_attach(CloudblkLoop *loop, AioContext *context)
{
    int ret = cloudblk_channel_attach(loop->channel, &loop_ops, context,
                                      cloudblk_complete, loop);

    if (ret < 0) {
        error_report("cloudblk: cannot serve %s: %s", loop->dev->conf.server,
                     strerror(-ret));
        return;
    }
    loop->attached = context;
}

void cloudblk_loop_detach(CloudblkLoop *loop)
{
    if (loop->attached) {
        cloudblk_channel_detach(loop->channel);
        loop->attached = NULL;
    }
}

void cloudblk_loop_publish(CloudblkLoop *loop)
{
    VirtIODevice *vdev = cloudblk_vdev(loop->dev);
    bool in_iothread = loop->attached != qemu_get_aio_context();

    while (loop->filled) {
        CloudblkQueue *queue = loop->filled;
        unsigned filled = queue->filled;

        loop->filled = queue->next_filled;
        queue->filled = 0;
        virtqueue_flush(queue->vq, filled);
        cloudblk_compat_notify(vdev, queue->vq, in_iothread);
    }
}

/* ---- Which loop serves which queue ---- */

/* Gives the queues to the IOThreads named in conf.iothreads, in turn. */
static bool map_iothreads_by_name(CloudblkDevice *dev, IOThread **iothreads,
                                  Error **errp)
{
    g_auto(GStrv) names = g_strsplit(dev->conf.iothreads, ":", -1);
    unsigned count = g_strv_length(names);
    unsigned i;

    if (!count) {
        error_setg(errp, "iothreads is empty, name IOThread objects as in "
                         "iothreads=io0:io1");
        return false;
    }
    for (i = 0; i < count; i++) {
        if (!*names[i]) {
            error_setg(errp, "iothreads has an empty name, name IOThread "
                             "objects as in iothreads=io0:io1");
            return false;
        }
        if (!iothread_by_id(names[i])) {
            error_setg(errp,
                       "there is no IOThread '%s', add -object iothread,id=%s",
                       names[i], names[i]);
            return false;
        }
    }
    for (i = 0; i < dev->conf.num_queues; i++) {
        iothreads[i] = iothread_by_id(names[i % count]);
    }
    return true;
}

static bool check_iothread_support(CloudblkDevice *dev, Error **errp)
{
    VirtIODevice *vdev = cloudblk_vdev(dev);
    VirtioBusClass *k = VIRTIO_BUS_GET_CLASS(qdev_get_parent_bus(DEVICE(dev)));
    CloudblkConf *conf = &dev->conf;

    if (!!conf->iothread + !!conf->iothreads + !!conf->iothread_vq_mapping >
        1) {
        error_setg(
            errp,
            "set only one of iothread, iothreads and iothread-vq-mapping");
        return false;
    }
    dev->has_iothread =
        conf->iothread || conf->iothreads || conf->iothread_vq_mapping;
    if (dev->has_iothread && (!k->set_guest_notifiers || !k->ioeventfd_assign ||
                              !virtio_device_ioeventfd_enabled(vdev))) {
        error_setg(
            errp,
            "an iothread needs ioeventfd=on and a transport with notifiers");
        return false;
    }
    return true;
}

/* The loop of `iothread`, or, if that is NULL, of the main loop. */
static CloudblkLoop *find_loop(CloudblkDevice *dev, IOThread *iothread)
{
    AioContext *context = iothread ? iothread_get_aio_context(iothread) :
                                     qemu_get_aio_context();
    CloudblkLoop *loop;

    for (loop = dev->loops; loop < dev->loops + dev->num_loops; loop++) {
        if (loop->context == context) {
            return loop;
        }
    }
    dev->num_loops++;
    loop->dev = dev;
    loop->context = context;
    loop->iothread = iothread;
    QSIMPLEQ_INIT(&loop->spare);
    if (iothread) {
        object_ref(OBJECT(iothread));
    }
    return loop;
}

bool cloudblk_loops_init(CloudblkDevice *dev, Error **errp)
{
    CloudblkConf *conf = &dev->conf;
    unsigned num_queues = conf->num_queues;
    g_autofree IOThread **iothreads = g_new0(IOThread *, num_queues);
    unsigned i;

    if (!check_iothread_support(dev, errp)) {
        return false;
    }
    for (i = 0; i < num_queues; i++) {
        iothreads[i] = conf->iothread;
    }
    if (conf->iothreads && !map_iothreads_by_name(dev, iothreads, errp)) {
        return false;
    }
    if (conf->iothread_vq_mapping &&
        !cloudblk_compat_vq_mapping_apply(conf->iothread_vq_mapping, iothreads,
                                          num_queues, errp)) {
        return false;
    }
    /* As many as there may be: the queues point into it */
    dev->loops = g_new0(CloudblkLoop, num_queues);
    dev->queues = g_new0(CloudblkQueue, num_queues);
    for (i = 0; i < num_queues; i++) {
        dev->queues[i].dev = dev;
        QSIMPLEQ_INIT(&dev->queues[i].kept);
        QSIMPLEQ_INIT(&dev->queues[i].retry);
        dev->queues[i].loop = find_loop(dev, iothreads[i]);
    }
    return true;
}

void cloudblk_loops_cleanup(CloudblkDevice *dev)
{
    unsigned i;

    for (i = 0; i < dev->num_loops; i++) {
        cloudblk_ring_cleanup(&dev->loops[i]);
        if (dev->loops[i].iothread) {
            object_unref(OBJECT(dev->loops[i].iothread));
        }
    }
    g_free(dev->queues);
    dev->queues = NULL;
    g_free(dev->loops);
    dev->loops = NULL;
    dev->num_loops = 0;
}
