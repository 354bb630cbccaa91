/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a queue has, from the driver or from before, goes to the engine. */
#include "cloudblk-queue.h"

#include "qemu/rcu.h"

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
            cloudblk_request_start(req, false);
        }
        cloudblk_ring_close(&ring);
        return;
    }
    while ((req = virtqueue_pop(queue->vq, sizeof(*req)))) {
        cloudblk_request_init(req, queue);
        cloudblk_request_start(req, false);
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
        cloudblk_request_start(req, true);
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
