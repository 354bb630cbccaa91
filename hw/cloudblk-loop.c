/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine's loop operations over AioContext. */
#include "cloudblk-loop.h"

#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"

#include "cloudblk-complete.h"
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

void cloudblk_loop_log(CloudblkLogLevel level, const char *message)
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
    .log = cloudblk_loop_log,
};

/* ---- Loops ---- */

void cloudblk_loop_init(CloudblkLoop *loop, CloudblkDisk *disk,
                        IOThread *iothread)
{
    loop->disk = disk;
    loop->context = iothread ? iothread_get_aio_context(iothread) :
                               qemu_get_aio_context();
    loop->iothread = iothread;
    QSIMPLEQ_INIT(&loop->spare);
    if (iothread) {
        object_ref(OBJECT(iothread));
    }
}

void cloudblk_loop_cleanup(CloudblkLoop *loop)
{
    cloudblk_ring_cleanup(loop);
    if (loop->iothread) {
        object_unref(OBJECT(loop->iothread));
    }
}

void cloudblk_loop_attach(CloudblkLoop *loop, AioContext *context)
{
    int ret = cloudblk_channel_attach(loop->channel, &loop_ops, context,
                                      cloudblk_complete, loop);

    if (ret < 0) {
        error_report("cloudblk: cannot serve %s: %s", loop->disk->server,
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

void cloudblk_loop_flush(CloudblkLoop *loop)
{
    /* Without opaque, whereby cloudblk_complete() knows it */
    CloudblkRequest flush = { .operation = CLOUDBLK_OP_FLUSH,
                              .flags = CLOUDBLK_REQUEST_OWN };
    int ret = cloudblk_channel_submit(loop->channel, &flush);

    /* Of a volume that is lost the user was told when that happened */
    if (ret == -EIO) {
        return;
    }
    if (ret < 0) {
        warn_report("cloudblk: cannot flush %s: %s", loop->disk->server,
                    strerror(-ret));
        return;
    }
    cloudblk_channel_kick(loop->channel);
}
