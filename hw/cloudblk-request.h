/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From descriptor chains to the engine's requests and back to used elements. */
#ifndef CLOUDBLK_REQUEST_H
#define CLOUDBLK_REQUEST_H

#include "cloudblk-device.h"

/*
 * One element of a virtqueue, in memory that cloudblk_ring_pop() or
 * virtqueue_pop() allocates.
 */
struct CloudblkReq {
    VirtQueueElement elem;
    CloudblkQueue *queue;
    /* Where its buffers are, with a reference. NULL: QEMU has mapped them */
    CloudblkMemory *memory;
    size_t in_bytes; /* that the device writes, of which the last is the status */
    size_t out_bytes; /* that it reads, which begin with the header */
    bool is_read;
    bool is_flush;
    bool spare; /* to be kept when it is over, for the next one */
    QSIMPLEQ_ENTRY(CloudblkReq) next; /* in one of the queue's lists */
};

/* Prepares a request whose buffers QEMU has mapped. */
void cloudblk_request_init(CloudblkReq *req, CloudblkQueue *queue);

/*
 * Takes all that the queue has and sends it. On the thread that serves the
 * queue.
 */
void cloudblk_queue_run(CloudblkQueue *queue);

/*
 * Lets the next cloudblk_queue_run() submit what is kept. Nobody else serves
 * the queue.
 */
void cloudblk_queue_retry(CloudblkQueue *queue);
/* Gives back what is kept, without an answer. Nobody serves the queue. */
void cloudblk_queue_forget(CloudblkQueue *queue);

/* The engine's completions of a loop (`opaque`). */
void cloudblk_complete(void *opaque, const CloudblkCompletion *done,
                       uint32_t count);

#endif
