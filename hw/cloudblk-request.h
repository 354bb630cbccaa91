/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From descriptor chains to the engine's requests and back to used elements. */
#ifndef CLOUDBLK_REQUEST_H
#define CLOUDBLK_REQUEST_H

#include "cloudblk-device.h"

/* One element of a virtqueue, in the memory that virtqueue_pop() allocates. */
struct CloudblkReq {
    VirtQueueElement elem;
    CloudblkQueue *queue;
    bool is_read;
    QSIMPLEQ_ENTRY(CloudblkReq) next; /* in one of the queue's lists */
};

/*
 * Takes all that the queue has and sends it. On the thread that serves the
 * queue.
 */
void cloudblk_queue_run(CloudblkQueue *queue);

/*
 * Lets the next cloudblk_queue_run() submit what failed again. Nobody serves
 * the queue.
 */
void cloudblk_queue_retry(CloudblkQueue *queue);
/*
 * Gives back what waits for a second try. Nobody serves the queue.
 */
void cloudblk_queue_forget(CloudblkQueue *queue);

/* The engine's completions of a loop (`opaque`). */
void cloudblk_complete(void *opaque, const CloudblkCompletion *done,
                       uint32_t count);

#endif
