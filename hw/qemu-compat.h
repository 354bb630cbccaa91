/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What differs between the QEMU releases that the device is built for.
 *
 * The only file of hw/ with conditionals on QEMU's version.
 */
#ifndef CLOUDBLK_QEMU_COMPAT_H
#define CLOUDBLK_QEMU_COMPAT_H

#include "qemu/osdep.h"

#define CLOUDBLK_QEMU_AT_LEAST(major, minor) \
    (QEMU_VERSION_MAJOR > (major) || \
     (QEMU_VERSION_MAJOR == (major) && QEMU_VERSION_MINOR >= (minor)))

#include "block/aio.h"
#include "block/aio-wait.h"
#include "hw/qdev-properties.h"
#include "hw/qdev-properties-system.h"
#include "hw/virtio/virtio.h"
#include "migration/misc.h"
#include "qapi/error.h"
#include "qapi/qapi-events-block-core.h"
#include "qemu/queue.h"

#if CLOUDBLK_QEMU_AT_LEAST(10, 1)
#include "system/memory.h"
#else
#include "exec/memory.h"
#endif

#if CLOUDBLK_QEMU_AT_LEAST(10, 0)
#include "system/iothread.h"
#include "system/replay.h"
#include "system/reset.h"
#include "system/runstate.h"
#include "system/system.h"
#include "system/xen.h"
#else
#include "sysemu/iothread.h"
#include "sysemu/replay.h"
#include "sysemu/reset.h"
#include "sysemu/runstate.h"
#include "sysemu/sysemu.h"
#include "sysemu/xen.h"
#endif

#if CLOUDBLK_QEMU_AT_LEAST(9, 0)
#include "hw/virtio/iothread-vq-mapping.h"
#endif

/* Of QEMU's own headers, not of those for devices. */
#if CLOUDBLK_QEMU_AT_LEAST(8, 1)
bool migrate_colo(void);
#else
bool migrate_colo_enabled(void);
static inline bool migrate_colo(void)
{
    return migrate_colo_enabled();
}
#endif

/* A list of properties: constant and without a terminator since 10.0. */
#if CLOUDBLK_QEMU_AT_LEAST(10, 0)
#define CLOUDBLK_PROPERTIES const Property
#define CLOUDBLK_PROPERTIES_END
#else
#define CLOUDBLK_PROPERTIES Property
#define CLOUDBLK_PROPERTIES_END DEFINE_PROP_END_OF_LIST(),
#endif

/* The last argument of a class_init function. */
#if CLOUDBLK_QEMU_AT_LEAST(10, 1)
#define CLOUDBLK_CLASS_DATA const void
#else
#define CLOUDBLK_CLASS_DATA void
#endif

/* What VirtioDeviceClass::set_status returns. */
#if CLOUDBLK_QEMU_AT_LEAST(10, 1)
#define CLOUDBLK_SET_STATUS_RESULT int
#define CLOUDBLK_SET_STATUS_OK 0
#else
#define CLOUDBLK_SET_STATUS_RESULT void
#define CLOUDBLK_SET_STATUS_OK
#endif

/* The property iothread-vq-mapping, which QEMU has since 9.0. */
#if CLOUDBLK_QEMU_AT_LEAST(9, 0)
typedef IOThreadVirtQueueMappingList CloudblkVqMapping;
#define CLOUDBLK_PROP_VQ_MAPPING(state, field) \
    DEFINE_PROP_IOTHREAD_VQ_MAPPING_LIST("iothread-vq-mapping", state, field),
#else
typedef void CloudblkVqMapping;
#define CLOUDBLK_PROP_VQ_MAPPING(state, field)
#endif

/*
 * Writes the IOThread of each queue that `mapping` gives it, without a
 * reference. The one that QEMU takes it drops by the IOThread's name, which
 * may be another one's by the time the disk goes: so it is dropped at once.
 */
static inline bool cloudblk_compat_vq_mapping_apply(CloudblkVqMapping *mapping,
                                                    IOThread **iothreads,
                                                    uint16_t num_queues,
                                                    Error **errp)
{
#if CLOUDBLK_QEMU_AT_LEAST(9, 0)
    g_autofree AioContext **contexts = g_new0(AioContext *, num_queues);
    CloudblkVqMapping *node;
    unsigned i;

    if (!iothread_vq_mapping_apply(mapping, contexts, num_queues, errp)) {
        return false;
    }
    for (node = mapping; node; node = node->next) {
        IOThread *iothread = iothread_by_id(node->value->iothread);

        for (i = 0; i < num_queues; i++) {
            if (contexts[i] == iothread_get_aio_context(iothread)) {
                iothreads[i] = iothread;
            }
        }
    }
    iothread_vq_mapping_cleanup(mapping);
    return true;
#else
    g_assert_not_reached();
#endif
}

static inline void cloudblk_compat_set_fd_handler(
    AioContext *context, int fd, IOHandler *read, IOHandler *write,
    AioPollFn *poll, IOHandler *poll_ready, void *opaque)
{
#if CLOUDBLK_QEMU_AT_LEAST(8, 1)
    aio_set_fd_handler(context, fd, read, write, poll, poll_ready, opaque);
#else
    /*
     * Not external: the answers to requests must also come in while QEMU drains
     * its disks.
     */
    aio_set_fd_handler(context, fd, false, read, write, poll, poll_ready,
                       opaque);
#endif
}

/* Runs `fn` in `context` and waits for it. Big QEMU lock held. */
static inline void cloudblk_compat_run_in(AioContext *context, QEMUBHFunc *fn,
                                          void *opaque)
{
    if (context == qemu_get_aio_context()) {
        fn(opaque);
        return;
    }
#if CLOUDBLK_QEMU_AT_LEAST(9, 0)
    aio_wait_bh_oneshot(context, fn, opaque);
#else
    /* The wait drops the context's lock, which it expects to be held. */
    aio_context_acquire(context);
    aio_wait_bh_oneshot(context, fn, opaque);
    aio_context_release(context);
#endif
}

/* Whether the guest is Xen's, whose memory is mapped piece by piece. */
static inline bool cloudblk_compat_xen(void)
{
    return xen_enabled();
}

/*
 * Counts requests that were taken off the ring without virtqueue_pop(). QEMU
 * has a function that takes elements out of its count, and unsigned arithmetic.
 */
static inline void cloudblk_compat_count_popped(VirtQueue *vq, unsigned count)
{
    VirtQueueElement elements = { .ndescs = -count };

    virtqueue_detach_element(vq, &elements, 0);
}

/* Interrupts the guest for `vq`, from an IOThread or from the main loop. */
static inline void cloudblk_compat_notify(VirtIODevice *vdev, VirtQueue *vq,
                                          bool in_iothread)
{
#if !CLOUDBLK_QEMU_AT_LEAST(10, 2)
    if (in_iothread) {
        virtio_notify_irqfd(vdev, vq);
        return;
    }
#endif
    virtio_notify(vdev, vq);
}

/*
 * Calls `failed` whenever a migration away from here has failed or was
 * cancelled, after the VM was continued if it is to be. Big QEMU lock held.
 */
typedef struct CloudblkMigrationWatch {
#if CLOUDBLK_QEMU_AT_LEAST(9, 0)
    NotifierWithReturn notifier;
#else
    Notifier notifier;
#endif
    void (*failed)(struct CloudblkMigrationWatch *watch);
} CloudblkMigrationWatch;

#if CLOUDBLK_QEMU_AT_LEAST(9, 0)
static inline int cloudblk_compat_migration_event(NotifierWithReturn *notifier,
                                                  MigrationEvent *event,
                                                  Error **errp)
{
    CloudblkMigrationWatch *watch =
        container_of(notifier, CloudblkMigrationWatch, notifier);

    if (event->type == MIG_EVENT_PRECOPY_FAILED) {
        watch->failed(watch);
    }
    return 0;
}
#else
static inline void cloudblk_compat_migration_event(Notifier *notifier,
                                                   void *state)
{
    CloudblkMigrationWatch *watch =
        container_of(notifier, CloudblkMigrationWatch, notifier);

    if (migration_has_failed(state)) {
        watch->failed(watch);
    }
}
#endif

static inline void cloudblk_compat_migration_watch(
    CloudblkMigrationWatch *watch)
{
#if CLOUDBLK_QEMU_AT_LEAST(8, 2)
    migration_add_notifier(&watch->notifier, cloudblk_compat_migration_event);
#else
    watch->notifier.notify = cloudblk_compat_migration_event;
    add_migration_state_change_notifier(&watch->notifier);
#endif
}

static inline void cloudblk_compat_migration_unwatch(
    CloudblkMigrationWatch *watch)
{
#if CLOUDBLK_QEMU_AT_LEAST(8, 2)
    migration_remove_notifier(&watch->notifier);
#else
    remove_migration_state_change_notifier(&watch->notifier);
#endif
}

/* Emits BLOCK_IO_ERROR. Any thread. */
static inline void cloudblk_compat_io_error(const char *path,
                                            const char *device,
                                            IoOperationType operation,
                                            BlockErrorAction action,
                                            bool nospace, const char *reason)
{
#if CLOUDBLK_QEMU_AT_LEAST(9, 2)
    qapi_event_send_block_io_error(path, device, NULL, operation, action, true,
                                   nospace, reason);
#elif CLOUDBLK_QEMU_AT_LEAST(8, 0)
    qapi_event_send_block_io_error(device, NULL, operation, action, true,
                                   nospace, reason);
#else
    qapi_event_send_block_io_error(device, false, NULL, operation, action, true,
                                   nospace, reason);
#endif
}

#endif
