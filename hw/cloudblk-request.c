/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests: from the descriptor chain to the engine, and the answer back into
 * the ring.
 */
#include "cloudblk-request.h"

#include "block/block.h"
#include "hw/virtio/virtio-access.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/rcu.h"
#include "standard-headers/linux/virtio_blk.h"

#include "cloudblk-loop.h"
#include "cloudblk-memory.h"
#include "cloudblk-ring.h"

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

void cloudblk_request_init(CloudblkReq *req, CloudblkQueue *queue)
{
    req->queue = queue;
    req->memory = NULL;
    req->in_bytes = iov_size(req->elem.in_sg, req->elem.in_num);
    req->out_bytes = iov_size(req->elem.out_sg, req->elem.out_num);
    queue->popped++;
}

/*
 * The first `stored` bytes of the buffers count as written. QEMU, which unmaps
 * what it has mapped, does the same for its own.
 */
static void release_buffers(CloudblkReq *req, size_t stored)
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

static void release(CloudblkReq *req)
{
    req->queue->popped--;
    if (req->memory) {
        cloudblk_ring_free(req);
    } else {
        g_free(req);
    }
}

/*
 * Answers the request and frees it. The guest sees it at the next publish. RCU
 * read lock held.
 */
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
    if (queue->filled == queue->dev->conf.queue_size) {
        cloudblk_loop_publish(queue->loop);
    }
    if (!queue->filled) {
        queue->next_filled = queue->loop->filled;
        queue->loop->filled = queue;
    }
    /*
     * Everything counts as written: after an error nobody knows how much was,
     * and that many bytes are marked dirty for migration
     */
    release_buffers(req, req->in_bytes);
    virtqueue_fill(queue->vq, elem, req->in_bytes, queue->filled++);
    release(req);
}

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

/* Answers the request, unless it is to wait for the VM to continue. */
static void answer(CloudblkReq *req, int result)
{
    CloudblkDevice *dev = req->queue->dev;
    bool is_read = req->is_read;

    if (storage_failed(result)) {
        BlockErrorAction action =
            cloudblk_error_action(dev, is_read, -result);

        /*
         * A flush that failed is not repeated when the VM continues: that could
         * succeed, although what it was to make durable is lost
         */
        if (action == BLOCK_ERROR_ACTION_STOP && !req->is_flush) {
            QSIMPLEQ_INSERT_TAIL(&req->queue->kept, req, next);
        } else {
            finish(req, action == BLOCK_ERROR_ACTION_IGNORE ? 0 : result);
        }
        cloudblk_error_raise(dev, action, is_read, -result);
        return;
    }
    finish(req, result);
}

/*
 * Gives the buffers back without an answer: `stored` bytes of them were
 * written.
 */
static void drop(CloudblkReq *req, size_t stored)
{
    release_buffers(req, stored);
    virtqueue_detach_element(req->queue->vq, &req->elem, stored);
    release(req);
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

/* The device's own flush, for which no guest waits, is over. */
static void own_flush_done(CloudblkDevice *dev, int result)
{
    /* One that was given up is no news */
    if (result < 0 && dev->disposition == CLOUDBLK_ANSWER) {
        error_report("cloudblk: cannot flush %s: %s", dev->conf.server,
                     strerror(-result));
    }
}

void cloudblk_complete(void *opaque, const CloudblkCompletion *done,
                       uint32_t count)
{
    CloudblkLoop *loop = opaque;
    CloudblkDisposition disposition = loop->dev->disposition;
    uint32_t i;

    RCU_READ_LOCK_GUARD();
    for (i = 0; i < count; i++) {
        CloudblkReq *req = done[i].opaque;

        if (!req) {
            own_flush_done(loop->dev, done[i].result);
        } else if (disposition == CLOUDBLK_DROP) {
            drop(req, done[i].bytes_stored);
        } else if (disposition == CLOUDBLK_KEEP &&
                   done[i].result == -ECANCELED) {
            keep(req, done[i].bytes_stored);
        } else {
            answer(req, done[i].result);
        }
    }
    cloudblk_loop_publish(loop);
}

/* ---- Reads and writes ---- */

static bool range_ok(CloudblkDevice *dev, uint64_t sector, uint64_t length)
{
    uint64_t capacity = qatomic_read(&dev->capacity) >> BDRV_SECTOR_BITS;
    uint64_t sectors = length >> BDRV_SECTOR_BITS;
    uint32_t block_sectors = dev->conf.logical_block_size >> BDRV_SECTOR_BITS;

    return sectors <= BDRV_REQUEST_MAX_SECTORS &&
           !(length & (dev->conf.logical_block_size - 1)) &&
           !(sector & (block_sectors - 1)) && sector <= capacity &&
           sectors <= capacity - sector;
}

/*
 * Without a write cache, what is written is durable before the guest is told.
 */
static uint32_t write_flags(CloudblkDevice *dev)
{
    return dev->info.write_cache && !qatomic_read(&dev->write_cache)
               ? CLOUDBLK_REQUEST_FUA
               : 0;
}

static int submit(CloudblkReq *req, CloudblkRequest *request)
{
    request->opaque = req;
    /* cloudblk_queue_run() kicks */
    request->flags |= CLOUDBLK_REQUEST_MORE;
    return cloudblk_channel_submit(req->queue->loop->channel, request);
}

/* Reads into all device-writable bytes but the last, which is the status. */
static int submit_read(CloudblkReq *req, uint64_t sector)
{
    VirtQueueElement *elem = &req->elem;
    struct iovec *last = &elem->in_sg[elem->in_num - 1];
    uint64_t length = req->in_bytes - 1;
    CloudblkRequest request = {};
    int ret;

    if (!range_ok(req->queue->dev, sector, length)) {
        return -EINVAL;
    }
    if (!length) {
        return 0;
    }
    /*
     * The engine copies the vector, so that it need be right during the call
     * only
     */
    last->iov_len--;
    request.operation = CLOUDBLK_OP_READ;
    request.offset = sector << BDRV_SECTOR_BITS;
    request.iov = elem->in_sg;
    request.iov_count = elem->in_num - !last->iov_len;
    ret = submit(req, &request);
    last->iov_len++;
    return ret < 0 ? ret : -EINPROGRESS;
}

/* Writes all device-readable bytes behind the header. */
static int submit_write(CloudblkReq *req, uint64_t sector)
{
    CloudblkDevice *dev = req->queue->dev;
    VirtQueueElement *elem = &req->elem;
    struct iovec *first = elem->out_sg;
    uint64_t length = req->out_bytes - sizeof(struct virtio_blk_outhdr);
    size_t header = sizeof(struct virtio_blk_outhdr);
    struct iovec whole;
    CloudblkRequest request = {};
    int ret;

    if (dev->read_only) {
        return -EROFS;
    }
    if (!range_ok(dev, sector, length)) {
        return -EINVAL;
    }
    if (!length) {
        return 0;
    }
    while (header >= first->iov_len) {
        header -= first->iov_len;
        first++;
    }
    /* As in submit_read(): cut for the call only */
    whole = *first;
    first->iov_base = (uint8_t *)first->iov_base + header;
    first->iov_len -= header;
    request.operation = CLOUDBLK_OP_WRITE;
    request.flags = write_flags(dev);
    request.offset = sector << BDRV_SECTOR_BITS;
    request.iov = first;
    request.iov_count = elem->out_sg + elem->out_num - first;
    ret = submit(req, &request);
    *first = whole;
    return ret < 0 ? ret : -EINPROGRESS;
}

/* ---- Everything else ---- */

static int submit_flush(CloudblkReq *req, bool again)
{
    CloudblkRequest request = {
        .operation = CLOUDBLK_OP_FLUSH,
        .flags = again ? CLOUDBLK_REQUEST_AGAIN : 0,
    };
    int ret = submit(req, &request);

    return ret < 0 ? ret : -EINPROGRESS;
}

/*
 * Answers with the serial number, padded with zeros to the size of the field.
 */
static int get_id(CloudblkReq *req)
{
    VirtQueueElement *elem = &req->elem;
    const char *serial = req->queue->dev->conf.serial;
    char id[VIRTIO_BLK_ID_BYTES] = "";
    size_t room = req->in_bytes - 1;

    if (serial) {
        memcpy(id, serial, MIN(strlen(serial), sizeof(id)));
    }
    iov_from_buf(elem->in_sg, elem->in_num, 0, id, MIN(room, sizeof(id)));
    return 0;
}

/* One range of a discard or write-zeroes. 0, or what the guest is answered. */
static int parse_range(CloudblkDevice *dev, bool discard,
                       const struct virtio_blk_discard_write_zeroes *from,
                       CloudblkRange *range)
{
    VirtIODevice *vdev = cloudblk_vdev(dev);
    uint64_t sector = virtio_ldq_p(vdev, &from->sector);
    uint32_t sectors = virtio_ldl_p(vdev, &from->num_sectors);
    uint32_t flags = virtio_ldl_p(vdev, &from->flags);
    uint32_t known = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    uint32_t max = discard ? dev->conf.max_discard_sectors
                           : dev->conf.max_write_zeroes_sectors;

    if (flags & ~known) {
        return -ENOTSUP;
    }
    range->offset = sector << BDRV_SECTOR_BITS;
    range->length = (uint64_t)sectors << BDRV_SECTOR_BITS;
    range->flags = flags ? CLOUDBLK_RANGE_UNMAP : 0;
    return sectors <= max && range_ok(dev, sector, range->length) ? 0 : -EINVAL;
}

static int submit_ranges(CloudblkReq *req, bool discard)
{
    CloudblkDevice *dev = req->queue->dev;
    VirtQueueElement *elem = &req->elem;
    struct virtio_blk_discard_write_zeroes from;
    size_t offset = sizeof(struct virtio_blk_outhdr);
    size_t size = req->out_bytes;
    CloudblkRange ranges[CLOUDBLK_MAX_RANGES];
    CloudblkRequest request = {};
    uint32_t count = 0;
    int ret;

    if (!virtio_vdev_has_feature(cloudblk_vdev(dev),
                                 discard ? VIRTIO_BLK_F_DISCARD
                                         : VIRTIO_BLK_F_WRITE_ZEROES)) {
        return -ENOTSUP;
    }
    if (dev->read_only) {
        return -EROFS;
    }
    if (size == offset || (size - offset) % sizeof(from)) {
        return -EINVAL;
    }
    if ((size - offset) / sizeof(from) > dev->max_ranges) {
        return -ENOTSUP;
    }
    for (; offset < size; offset += sizeof(from)) {
        iov_to_buf(elem->out_sg, elem->out_num, offset, &from, sizeof(from));
        ret = parse_range(dev, discard, &from, &ranges[count]);
        if (ret < 0) {
            return ret;
        }
        count += ranges[count].length != 0;
    }
    if (!count) {
        return 0;
    }
    request.operation =
        discard ? CLOUDBLK_OP_DISCARD : CLOUDBLK_OP_WRITE_ZEROES;
    request.flags = discard ? 0 : write_flags(dev);
    request.ranges = ranges;
    request.range_count = count;
    ret = submit(req, &request);
    return ret < 0 ? ret : -EINPROGRESS;
}

/* ---- Queues ---- */

/* -EINPROGRESS: the engine has it. Else it is to be answered with that. */
static int start(CloudblkReq *req, const struct virtio_blk_outhdr *header,
                 bool again)
{
    VirtIODevice *vdev = cloudblk_vdev(req->queue->dev);
    uint64_t sector = virtio_ldq_p(vdev, &header->sector);
    /*
     * The barrier bit is a relic of drivers before virtio 1.0 and never meant
     * anything here
     */
    uint32_t type =
        virtio_ldl_p(vdev, &header->type) & ~VIRTIO_BLK_T_BARRIER;

    req->is_read = type == VIRTIO_BLK_T_IN;
    req->is_flush = (type & ~VIRTIO_BLK_T_OUT) == VIRTIO_BLK_T_FLUSH;
    switch (type) {
    case VIRTIO_BLK_T_IN:
        return submit_read(req, sector);
    case VIRTIO_BLK_T_OUT:
        return submit_write(req, sector);
    case VIRTIO_BLK_T_FLUSH:
    case VIRTIO_BLK_T_FLUSH | VIRTIO_BLK_T_OUT:
        return submit_flush(req, again);
    case VIRTIO_BLK_T_GET_ID:
        return get_id(req);
    case VIRTIO_BLK_T_DISCARD:
        return submit_ranges(req, true);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return submit_ranges(req, false);
    default:
        return -ENOTSUP;
    }
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

/*
 * If the driver broke the rules too badly for an answer, the device stops until
 * it is reset. `again`: it was submitted before and kept.
 */
static void handle(CloudblkReq *req, bool again)
{
    VirtQueueElement *elem = &req->elem;
    struct virtio_blk_outhdr header;
    int result;

    if (!req->in_bytes || req->out_bytes < sizeof(header)) {
        cloudblk_device_error(req->queue->dev, "cloudblk: request without %s",
                              req->in_bytes ? "header" : "status");
        drop(req, 0);
        return;
    }
    iov_to_buf(elem->out_sg, elem->out_num, 0, &header, sizeof(header));
    if (!req->memory && (!in_ram(elem->in_sg, elem->in_num) ||
                         !in_ram(elem->out_sg, elem->out_num))) {
        cloudblk_device_error(req->queue->dev,
                              "cloudblk: request with a buffer outside memory");
        drop(req, 0);
        return;
    }
    result = start(req, &header, again);
    if (result != -EINPROGRESS) {
        answer(req, result);
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

void cloudblk_queue_forget(CloudblkQueue *queue)
{
    CloudblkReq *req;

    RCU_READ_LOCK_GUARD();
    cloudblk_queue_retry(queue);
    while ((req = take(&queue->retry))) {
        /* A read that failed may have written any of it */
        drop(req, req->in_bytes);
    }
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
    } while (!virtio_device_disabled(cloudblk_vdev(queue->dev)) &&
             !virtio_queue_empty(vq));

    cloudblk_channel_kick(queue->loop->channel);
    cloudblk_loop_publish(queue->loop);
}
