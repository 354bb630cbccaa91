/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk as the data path sees it: its loops, its queues, and what a request is
 * judged by.
 *
 * The data path takes requests off the rings, hands them to the engine and puts
 * the answers back: cloudblk-queue, -request, -complete, -ring, -memory and
 * -loop. Control, which is everything else, sets the disk up and calls the data
 * path. The data path knows nothing of control, and calls it by CloudblkDiskOps
 * only.
 *
 * Each queue is served by one *loop*: an AioContext (an IOThread's or the main
 * loop's) with a channel of the session. While ioeventfd is on, everything
 * about a queue and its channel happens in that loop's thread without a lock.
 * Otherwise (ioeventfd off or stopped) it happens in the main loop's context,
 * that is on any thread that holds the big QEMU lock.
 */
#ifndef CLOUDBLK_DISK_H
#define CLOUDBLK_DISK_H

#include "qemu-compat.h"

#include "cloudblk.h"

/*
 * Ranges of one discard or write-zeroes that the device takes, however many the
 * server does.
 */
#define CLOUDBLK_MAX_RANGES 64

typedef struct CloudblkDisk CloudblkDisk;
typedef struct CloudblkLoop CloudblkLoop;
typedef struct CloudblkMemory CloudblkMemory;
typedef struct CloudblkQueue CloudblkQueue;
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

/*
 * What the data path has to tell control. Called by whoever serves the queue in
 * question, and only when something went wrong.
 */
typedef struct CloudblkDiskOps {
    /*
     * As virtio_error(): the driver broke the rules, so the device stops until
     * it is reset
     */
    void (*broken)(CloudblkDisk *disk, const char *format, ...)
        G_GNUC_PRINTF(2, 3);
    /* What is to become of a request that the storage failed */
    BlockErrorAction (*error_action)(CloudblkDisk *disk, bool is_read,
                                     int error);
    /*
     * Tells the user of the error, and stops the VM if that is the action. The
     * request was answered, or is in queue->kept, before
     */
    void (*error_raise)(CloudblkDisk *disk, BlockErrorAction action,
                        bool is_read, int error);
} CloudblkDiskOps;

struct CloudblkQueue {
    /* Constant after realize */
    CloudblkDisk *disk;
    VirtQueue *vq;
    CloudblkLoop *loop;
    /* The thread that serves the queue */
    unsigned filled; /* used elements written, but not yet shown to the guest */
    unsigned popped; /* requests that are not answered */
    CloudblkQueue *next_filled;
    /*
     * Requests that wait until the VM continues, here or after a migration: it
     * stopped before the storage answered them, or because the storage failed
     * them
     */
    CloudblkReqList kept;
    /*
     * Requests that were kept until the VM continued: the next
     * cloudblk_queue_run() submits them
     */
    CloudblkReqList retry;
};

struct CloudblkLoop {
    /* Constant after realize */
    CloudblkDisk *disk;
    AioContext *context;
    IOThread *iothread; /* a reference, NULL: the main loop */
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

struct CloudblkDisk {
    /* Constant after realize */
    VirtIODevice *vdev;
    const CloudblkDiskOps *ops;
    CloudblkLoop *loops;
    unsigned num_loops;
    const char *server; /* for messages */
    const char *serial; /* NULL: none */
    uint32_t queue_size; /* entries */
    uint32_t logical_block_size; /* bytes */
    uint32_t max_ranges; /* of one discard or write-zeroes */
    uint32_t max_discard_sectors; /* of one range */
    uint32_t max_write_zeroes_sectors; /* of one range */
    bool read_only;
    bool volume_has_cache; /* the volume needs a flush for durability */

    /* Big QEMU lock. The loops read it: changes while none serves a queue */
    CloudblkDisposition disposition;

    /* Shared, atomic */
    uint64_t capacity; /* bytes */
    bool write_cache; /* completed writes may wait for a flush */

    /* Big QEMU lock, of cloudblk-memory.c */
    bool memory_watched; /* the loops read it too, atomic */
    MemoryListener memory_listener;
};

#endif
