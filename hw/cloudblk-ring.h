/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Takes requests off a split virtqueue, a batch at a time.
 *
 * As virtqueue_pop() does, with its checks, but what it finds out anew for each
 * element (where the ring, the indirect table and the buffers are) is known or
 * found out once. Between batches QEMU's own view of the queue is right.
 */
#ifndef CLOUDBLK_RING_H
#define CLOUDBLK_RING_H

#include "cloudblk-disk.h"

typedef struct CloudblkRing {
    CloudblkQueue *queue;
    VirtIODevice *vdev;
    CloudblkMemory *memory;
    const uint8_t *descriptors;
    const uint8_t *available;
    unsigned size; /* entries */
    uint16_t next; /* of the available ring: the first that was not taken */
    uint16_t end; /* behind the last that the driver is known to have added */
    unsigned taken;
} CloudblkRing;

/*
 * Begins a batch, which lasts until cloudblk_ring_close(). False: this queue is
 * to be served by virtqueue_pop(). RCU read lock held.
 */
bool cloudblk_ring_open(CloudblkRing *ring, CloudblkQueue *queue);
/*
 * The next request, or NULL if there is none, or when the driver broke the
 * rules so that the device has stopped.
 */
CloudblkReq *cloudblk_ring_pop(CloudblkRing *ring);
void cloudblk_ring_close(CloudblkRing *ring);

/* Frees a request, or keeps it for the next. */
void cloudblk_ring_free(CloudblkReq *req);
/* Frees what the loop keeps. Nothing is in flight. */
void cloudblk_ring_cleanup(CloudblkLoop *loop);

#endif
