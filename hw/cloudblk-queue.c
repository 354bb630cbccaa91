/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a queue has, from the driver or from before, goes to the engine. */
#include "cloudblk-queue.h"

#include "qemu/rcu.h"
#include "standard-headers/linux/virtio_blk.h"

#include "cloudblk-complete.h"
#include "cloudblk-request.h"
#include "cloudblk-ring.h"

void cloudblk_queue_init(CloudblkQueue *queue, CloudblkLoop *loop)
{
    queue->disk = loop->disk;
    queue->loop = loop;
    QSIMPLEQ_INIT(&queue->kept);
    QSIMPLEQ_INIT(&queue->retry);
}

/*
 * Whether all of it is memory. For an address that is not, QEMU lends a buffer
 * and copies when it is given back: into a device's registers, if the guest
 * says so, and from any thread.
 */
static bool in_ram(const struct iovec *sg, unsigned count)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        if (qemu_ram_addr_from_host(sg[i].iov_base) == RAM_ADDR_INVALID) {
            return false;
        }
    }
    return true;
}

/* NULL, or what is wrong with it: the driver gets no answer then. */
static const char *find_fault(const CloudblkReq *req)
{
    const VirtQueueElement *elem = &req->elem;

    if (!req->in_bytes) {
        return "request without status";
    }
    if (req->out_bytes < sizeof(struct virtio_blk_outhdr)) {
        return "request without header";
    }
    /* cloudblk-ring.c takes nothing but memory */
    if (!req->memory && (!in_ram(elem->in_sg, elem->in_num) ||
                         !in_ram(elem->out_sg, elem->out_num))) {
        return "request with a buffer outside memory";
    }
    return NULL;
}

/* `again`: it was submitted before and kept. */
static void handle(CloudblkReq *req, bool again)
{
    CloudblkDisk *disk = req->queue->disk;
    const char *fault = find_fault(req);
    int result;

    if (fault) {
        disk->ops->broken(disk, "cloudblk: %s", fault);
        cloudblk_drop(req, 0);
        return;
    }
    result = cloudblk_request_start(req, again);
    if (result != -EINPROGRESS) {
        cloudblk_answer(req, result);
    }
}

void cloudblk_queue_retry(CloudblkQueue *queue)
{
    QSIMPLEQ_CONCAT(&queue->retry, &queue->kept);
}

static CloudblkReq *take(CloudblkReqList *list)
{
    CloudblkReq *req = QSIMPLEQ_FIRST(list);

    if (req) {
        QSIMPLEQ_REMOVE_HEAD(list, next);
    }
    return req;
}

static void forget(CloudblkReqList *list)
{
    CloudblkReq *req;

    while ((req = take(list))) {
        /* A read that was submitted may have written any of it */
        cloudblk_drop(req, req->in_bytes);
    }
}

void cloudblk_queue_forget(CloudblkQueue *queue)
{
    RCU_READ_LOCK_GUARD();
    forget(&queue->retry);
    forget(&queue->kept);
}

/* All that the driver has made available. */
static void take_available(CloudblkQueue *queue)
{
    CloudblkRing ring;
    CloudblkReq *req;

    if (cloudblk_ring_open(&ring, queue)) {
        while ((req = cloudblk_ring_pop(&ring))) {
            handle(req, false);
        }
        cloudblk_ring_close(&ring);
        return;
    }
    while ((req = virtqueue_pop(queue->vq, sizeof(*req)))) {
        cloudblk_request_init(req, queue);
        handle(req, false);
    }
}

void cloudblk_queue_run(CloudblkQueue *queue)
{
    VirtQueue *vq = queue->vq;
    /* Off already while the loop polls the queue, and then left so */
    bool suppress = virtio_queue_get_notification(vq);
    CloudblkReq *req;

    RCU_READ_LOCK_GUARD();
    while ((req = take(&queue->retry))) {
        handle(req, true);
    }
    do {
        if (suppress) {
            virtio_queue_set_notification(vq, 0);
        }
        take_available(queue);
        if (suppress) {
            virtio_queue_set_notification(vq, 1);
        }
        /*
         * Nothing is popped from a broken device, but a packed ring still does
         * not look empty
         */
    } while (!virtio_device_disabled(queue->disk->vdev) &&
             !virtio_queue_empty(vq));

    cloudblk_channel_kick(queue->loop->channel);
    cloudblk_publish(queue->loop);
}
