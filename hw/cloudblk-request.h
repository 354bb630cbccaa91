/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From descriptor chains to the engine's requests. */
#ifndef CLOUDBLK_REQUEST_H
#define CLOUDBLK_REQUEST_H

#include "cloudblk-disk.h"

/*
 * One element of a virtqueue, in memory that cloudblk_ring_pop() or
 * virtqueue_pop() allocates.
 */
struct CloudblkReq {
    VirtQueueElement elem;
    CloudblkQueue *queue;
    /* Where its buffers are, with a reference. NULL: QEMU has mapped them */
    CloudblkMemory *memory;
    size_t in_bytes; /* that the device writes: the last one is the status */
    size_t out_bytes; /* that it reads: they begin with the header */
    bool is_read;
    bool is_flush;
    bool spare; /* to be used again when it is over */
    QSIMPLEQ_ENTRY(CloudblkReq) next; /* in one of the queue's lists */
};

/* Prepares a request whose buffers QEMU has mapped. */
void cloudblk_request_init(CloudblkReq *req, CloudblkQueue *queue);

/*
 * Gives the request to the engine, for the next cloudblk_channel_kick(), or
 * answers it, for the next cloudblk_publish(). Drops it if the driver broke the
 * rules too badly for an answer. `again`: it was submitted before and kept. On
 * the thread that serves the queue, RCU read lock held.
 */
void cloudblk_request_start(CloudblkReq *req, bool again);

#endif
