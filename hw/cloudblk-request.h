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
 * Does what the request asks for. It has a header and a status. -EINPROGRESS:
 * the engine has it, and cloudblk_channel_kick() is to follow. Else the request
 * is to be answered with that result. `again`: it was submitted before and
 * kept.
 */
int cloudblk_request_start(CloudblkReq *req, bool again);

#endif
