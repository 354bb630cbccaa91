/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end of requests: from the engine's completions to used elements. */
#include "cloudblk-complete.h"

#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "standard-headers/linux/virtio_blk.h"

#include "cloudblk-memory.h"
#include "cloudblk-request.h"
#include "cloudblk-ring.h"

/* ---- Used elements ---- */

void cloudblk_publish(CloudblkLoop *loop)
{
    VirtIODevice *vdev = loop->disk->vdev;
    bool in_iothread = loop->attached != qemu_get_aio_context();

    while (loop->filled) {
        CloudblkQueue *queue = loop->filled;
        unsigned filled = queue->filled;

        loop->filled = queue->next_filled;
        queue->filled = 0;
        virtqueue_flush(queue->vq, filled);
        cloudblk_compat_notify(vdev, queue->vq, in_iothread);
    }
}

/* The only place where an errno becomes what the guest is told. */
static uint8_t status_of(int result)
{
    switch (result) {
    case 0:
        return VIRTIO_BLK_S_OK;
    case -ENOTSUP:
        return VIRTIO_BLK_S_UNSUPP;
    default:
        return VIRTIO_BLK_S_IOERR;
    }
}

/*
 * The first `stored` bytes of the buffers count as written. Buffers that QEMU
 * has mapped are left to QEMU, which does the same when it unmaps them.
 */
static void unmap_buffers(CloudblkReq *req, size_t stored)
{
    VirtQueueElement *elem = &req->elem;
    unsigned i;

    if (!req->memory) {
        return;
    }
    for (i = 0; stored; i++) {
        size_t length = MIN(stored, elem->in_sg[i].iov_len);

        cloudblk_memory_written(req->memory, elem->in_addr[i], length);
        stored -= length;
    }
    elem->in_num = elem->out_num = 0;
}

static void free_request(CloudblkReq *req)
{
    req->queue->popped--;
    if (req->memory) {
        cloudblk_ring_free(req);
    } else {
        g_free(req);
    }
}

/* Puts the answer into the ring, which cloudblk_publish() shows the guest. */
static void finish(CloudblkReq *req, int result)
{
    CloudblkQueue *queue = req->queue;
    VirtQueueElement *elem = &req->elem;
    struct iovec *last = &elem->in_sg[elem->in_num - 1];

    /*
     * Its last byte, wherever the driver put it: pop refuses empty descriptors
     */
    ((uint8_t *)last->iov_base)[last->iov_len - 1] = status_of(result);
    /*
     * Of a packed ring QEMU keeps what was filled in an array of queue-size
     * entries, and does not check: a driver may have made its ring larger
     */
    if (queue->filled == queue->disk->queue_size) {
        cloudblk_publish(queue->loop);
    }
    if (!queue->filled) {
        queue->next_filled = queue->loop->filled;
        queue->loop->filled = queue;
    }
    /*
     * Everything counts as written: after an error nobody knows how much was,
     * and that many bytes are marked dirty for migration
     */
    unmap_buffers(req, req->in_bytes);
    virtqueue_fill(queue->vq, elem, req->in_bytes, queue->filled++);
    free_request(req);
}

/* ---- Requests ---- */

/*
 * Whether it was the storage's fault, as opposed to a request that can never
 * succeed.
 */
static bool storage_failed(int result)
{
    /* ERANGE: the volume shrank meanwhile */
    return result < 0 && result != -EINVAL && result != -ENOTSUP &&
           result != -EROFS && result != -ERANGE;
}

/*
 * Keeps it until the VM continues. The stored bytes are marked for migration
 * now, as unmapping would: their memory may be sent before the request is
 * answered elsewhere.
 */
static void keep(CloudblkReq *req, size_t stored)
{
    struct iovec *sg = req->elem.in_sg;

    for (; stored; sg++) {
        size_t length = MIN(stored, sg->iov_len);
        ram_addr_t offset;
        MemoryRegion *mr = memory_region_from_host(sg->iov_base, &offset);

        memory_region_set_dirty(mr, offset, length);
        stored -= length;
    }
    QSIMPLEQ_INSERT_TAIL(&req->queue->kept, req, next);
}

/* Does with a request that the storage failed as werror or rerror wants it. */
static void fail(CloudblkReq *req, int result, size_t stored)
{
    CloudblkDisk *disk = req->queue->disk;
    bool is_read = req->is_read;
    BlockErrorAction action = disk->ops->error_action(disk, is_read, -result);

    /*
     * A flush that failed is not repeated when the VM continues: that could
     * succeed, although what it was to make durable is lost
     */
    if (action == BLOCK_ERROR_ACTION_STOP && !req->is_flush) {
        keep(req, stored);
    } else {
        finish(req, action == BLOCK_ERROR_ACTION_IGNORE ? 0 : result);
    }
    disk->ops->error_raise(disk, action, is_read, -result);
}

static void answer(CloudblkReq *req, int result, size_t stored)
{
    if (storage_failed(result)) {
        fail(req, result, stored);
    } else {
        finish(req, result);
    }
}

void cloudblk_answer(CloudblkReq *req, int result)
{
    answer(req, result, 0);
}

void cloudblk_drop(CloudblkReq *req, size_t stored)
{
    unmap_buffers(req, stored);
    virtqueue_detach_element(req->queue->vq, &req->elem, stored);
    free_request(req);
}

/* ---- Completions ---- */

/* The device's own flush, for which no guest waits, is over. */
static void own_flush_done(CloudblkDisk *disk, int result)
{
    /* One that was given up is no news */
    if (result < 0 && disk->disposition == CLOUDBLK_ANSWER) {
        error_report("cloudblk: cannot flush %s: %s", disk->server,
                     strerror(-result));
    }
}

void cloudblk_complete(void *opaque, const CloudblkCompletion *done,
                       uint32_t count)
{
    CloudblkLoop *loop = opaque;
    CloudblkDisposition disposition = loop->disk->disposition;
    uint32_t i;

    RCU_READ_LOCK_GUARD();
    for (i = 0; i < count; i++) {
        CloudblkReq *req = done[i].opaque;

        if (!req) {
            own_flush_done(loop->disk, done[i].result);
        } else if (disposition == CLOUDBLK_DROP) {
            cloudblk_drop(req, done[i].bytes_stored);
        } else if (disposition == CLOUDBLK_KEEP &&
                   done[i].result == -ECANCELED) {
            keep(req, done[i].bytes_stored);
        } else {
            answer(req, done[i].result, done[i].bytes_stored);
        }
    }
    cloudblk_publish(loop);
}
