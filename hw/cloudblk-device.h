/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cloudblk: a virtio block device whose disk lives on a storage server.
 *
 * Each queue is served by one *loop*: an AioContext (an IOThread's or the main
 * loop's) with a channel of the session. While ioeventfd is on, everything
 * about a queue and its channel happens in that loop's thread without a lock.
 * Otherwise (ioeventfd off or stopped) it happens in the main loop's context,
 * that is on any thread that holds the big QEMU lock.
 */
#ifndef CLOUDBLK_DEVICE_H
#define CLOUDBLK_DEVICE_H

#include "qemu-compat.h"

#include "cloudblk.h"

#define TYPE_CLOUDBLK_DEVICE "cloudblk-device"
OBJECT_DECLARE_SIMPLE_TYPE(CloudblkDevice, CLOUDBLK_DEVICE)

#define CLOUDBLK_AUTO_NUM_QUEUES UINT16_MAX
/*
 * Ranges of one discard or write-zeroes that the device takes, however many the
 * server does.
 */
#define CLOUDBLK_MAX_RANGES 64

typedef struct CloudblkLoop CloudblkLoop;
typedef struct CloudblkMemory CloudblkMemory;
typedef struct CloudblkReq CloudblkReq;
typedef struct CloudblkRingScratch CloudblkRingScratch;
typedef QSIMPLEQ_HEAD(CloudblkReqList, CloudblkReq) CloudblkReqList;

/* What becomes of the completions that the engine delivers. */
typedef enum CloudblkDisposition {
    /* The VM runs: the guest gets its answer */
    CLOUDBLK_ANSWER,
    /*
     * The disk is reset or removed: the buffers are given back and the guest
     * is told nothing
     */
    CLOUDBLK_DROP,
    /*
     * The VM is stopped: a request that was taken back from the engine
     * (-ECANCELED) is kept until the VM continues. One that the storage had
     * answered by then is answered
     */
    CLOUDBLK_KEEP,
} CloudblkDisposition;

typedef struct CloudblkQueue {
    /* Constant after realize */
    CloudblkDevice *dev;
    VirtQueue *vq;
    CloudblkLoop *loop;
    /* The thread that serves the queue */
    unsigned filled; /* used elements written, but not yet shown to the guest */
    unsigned popped; /* requests that are not answered */
    struct CloudblkQueue *next_filled;
    /*
     * Requests that wait until the VM continues, here or after a migration.
     * The VM stopped before the storage answered them, or because it failed
     * them
     */
    CloudblkReqList kept;
    /* Those for which it has: the next cloudblk_queue_run() submits them */
    CloudblkReqList retry;
} CloudblkQueue;

struct CloudblkLoop {
    /* Constant after realize */
    CloudblkDevice *dev;
    AioContext *context;
    /* A reference. NULL: the main loop, or held by iothread-vq-mapping */
    IOThread *iothread;
    CloudblkChannel *channel;
    /*
     * Where the channel is attached, NULL: parked. Changes under the big QEMU
     * lock while nobody serves the loop's queues
     */
    AioContext *attached;
    /* The thread that serves the loop's queues */
    CloudblkQueue *filled; /* queues with used elements to be shown */
    CloudblkReqList spare; /* requests to be used again */
    CloudblkRingScratch *scratch; /* of cloudblk-ring.c */
    /*
     * Guest memory as it was looked up last. RCU; removed under the big QEMU
     * lock when the memory map changes
     */
    CloudblkMemory *memory;
};

typedef struct CloudblkConf {
    /* Ours */
    char *server;
    char *iothreads;
    uint32_t open_timeout_ms;
    bool takeover;
    bool payload_crc;
    bool read_only;
    /* As virtio-blk's */
    IOThread *iothread;
    CloudblkVqMapping *iothread_vq_mapping;
    char *serial;
    uint16_t num_queues;
    uint16_t queue_size;
    bool seg_max_adjust;
    bool report_discard_granularity;
    bool share_rw;
    bool wce_if_config_wce;
    OnOffAuto backend_defaults;
    OnOffAuto write_cache;
    BlockdevOnError rerror, werror;
    uint32_t max_discard_sectors;
    uint32_t max_write_zeroes_sectors;
    uint32_t logical_block_size;
    uint32_t physical_block_size;
    uint32_t min_io_size;
    uint32_t opt_io_size;
    uint32_t discard_granularity;
    uint32_t cyls, heads, secs;
    uint32_t lcyls, lheads, lsecs;
    int32_t bootindex;
} CloudblkConf;

struct CloudblkDevice {
    VirtIODevice parent_obj;

    /* Constant after realize */
    CloudblkConf conf;
    uint64_t host_features;
    size_t config_size;
    CloudblkSession *session;
    CloudblkInfo info;
    CloudblkQueue *queues;
    CloudblkLoop *loops;
    unsigned num_loops;
    bool has_iothread;
    bool read_only;
    bool default_write_cache;
    uint32_t max_ranges;
    QEMUBH *resume_bh;
    QEMUTimer *stop_timer;
    QEMUBH *config_bh;
    VMChangeStateEntry *vm_state;
    CloudblkMigrationWatch migration_watch;
    Notifier exit_notifier;

    /* Big QEMU lock */
    QLIST_ENTRY(CloudblkDevice) next;
    bool flush_wanted; /* by cloudblk_drain(), once nothing is in flight */
    /* The present stop's time to wait was spent, on all disks together */
    bool stop_drained;
    bool running; /* the VM runs: the device may touch guest memory */
    /* Changes while nobody serves the queues */
    CloudblkDisposition disposition;
    /* The loops read it too, but are told to start after it was set */
    bool ioeventfd_started;
    bool ioeventfd_starting;
    bool ioeventfd_stopping;
    bool ioeventfd_disabled; /* the queues are served by the main loop */
    /* Migrating */
    CloudblkIdentity identity; /* as in the stream */
    bool leaving; /* the volume was given up, or may be, and not taken back */
    MemoryListener memory_listener;
    bool memory_watched; /* the loops read it too, atomic */

    /* Shared, atomic */
    uint64_t capacity; /* bytes */
    bool write_cache; /* completed writes may wait for a flush */
    int io_status; /* BlockDeviceIoStatus: why requests wait for a continue */
};

/* As VIRTIO_DEVICE(), without its check, which is too dear for each request. */
static inline VirtIODevice *cloudblk_vdev(CloudblkDevice *dev)
{
    return &dev->parent_obj;
}

/*
 * As virtio_error(), for whoever serves a queue: the device stops until it is
 * reset. Does not wait for the big QEMU lock, as telling the guest does.
 */
void cloudblk_device_error(CloudblkDevice *dev, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

/* All that are realized. Big QEMU lock. */
extern QLIST_HEAD(CloudblkDeviceList, CloudblkDevice) cloudblk_devices;

/* cloudblk-config.c: limits, block sizes and the configuration space. */

/* Checks the properties that can be judged without the volume. */
bool cloudblk_config_check(CloudblkDevice *dev, Error **errp);
/* Fills in what the user left open from dev->info and checks the rest. */
bool cloudblk_config_init(CloudblkDevice *dev, Error **errp);
void cloudblk_get_config(VirtIODevice *vdev, uint8_t *config);
/* Whether the guest, when it last looked, saw another capacity. */
bool cloudblk_config_is_stale(CloudblkDevice *dev);
void cloudblk_set_config(VirtIODevice *vdev, const uint8_t *config);
uint64_t cloudblk_get_features(VirtIODevice *vdev, uint64_t features,
                               Error **errp);
CLOUDBLK_SET_STATUS_RESULT cloudblk_set_status(VirtIODevice *vdev,
                                               uint8_t status);

/* cloudblk-error.c: werror and rerror. */

/* What is to become of a request that the storage failed. Any thread. */
BlockErrorAction cloudblk_error_action(CloudblkDevice *dev, bool is_read,
                                       int error);
/*
 * Tells the user of the error, and stops the VM if that is the action. Any
 * thread. The request was answered, or is in queue->kept, before.
 */
void cloudblk_error_raise(CloudblkDevice *dev, BlockErrorAction action,
                          bool is_read, int error);
/* Adds the property io-status to the class. */
void cloudblk_error_class_init(ObjectClass *klass);

/* cloudblk-machine.c: what differs between machine types. */

/*
 * Sets the properties that the machine type sets on QEMU's own `virtio_type`.
 * For instance_init: the user's settings come after and win.
 */
void cloudblk_machine_defaults(Object *obj, const char *virtio_type);

/* cloudblk-migration.c: from one QEMU to another. Big QEMU lock held. */

extern const VMStateDescription cloudblk_vmstate;

/* The VM is about to run or will again: the volume has to be ours. */
void cloudblk_migration_run(CloudblkDevice *dev);
/*
 * A VM that was running has taken the volume back by now. One that was not does
 * so here, as nobody else will.
 */
void cloudblk_migration_failed(CloudblkMigrationWatch *watch);
/*
 * The volume is somebody else's for good. Stops the VM if that may be itself,
 * elsewhere. Any thread.
 */
void cloudblk_stop_if_moved(CloudblkDevice *dev);

/* cloudblk-properties.c: what a user sets. */

/* Adds the properties and their descriptions to the class. */
void cloudblk_properties_class_init(ObjectClass *klass);

typedef struct CloudblkPropertyText {
    const char *name;
    const char *text;
} CloudblkPropertyText;

/* Describes those of the class's properties that exist in this release. */
void cloudblk_set_property_texts(ObjectClass *klass,
                                 const CloudblkPropertyText *texts,
                                 size_t count);

/* cloudblk-run.c: who serves the queues and when. Big QEMU lock held. */

int cloudblk_start_ioeventfd(VirtIODevice *vdev);
void cloudblk_stop_ioeventfd(VirtIODevice *vdev);
void cloudblk_handle_output(VirtIODevice *vdev, VirtQueue *vq);
void cloudblk_reset(VirtIODevice *vdev);
void cloudblk_vm_state_changed(void *opaque, bool running, RunState state);
/* Serves what the guest queued while the VM was stopped. */
void cloudblk_resume(void *opaque);
/* Tries what is kept again, unless the VM has stopped meanwhile. Main loop. */
void cloudblk_retry_now(void *opaque);
/*
 * Gives every request up, without an answer: those in flight and those that
 * are kept. Returns at once. Completions are dropped from here on.
 */
void cloudblk_revoke(CloudblkDevice *dev);
/*
 * Waits for the requests in flight and flushes, within a bound. NULL: all
 * devices, whose waiting does not add up.
 */
void cloudblk_drain(CloudblkDevice *dev);

#endif
