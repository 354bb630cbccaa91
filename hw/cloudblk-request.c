/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From the descriptor chain to the engine. */
#include "cloudblk-request.h"

#include "block/block.h"
#include "hw/virtio/virtio-access.h"
#include "qemu/iov.h"
#include "standard-headers/linux/virtio_blk.h"

#include "cloudblk-complete.h"

void cloudblk_request_init(CloudblkReq *req, CloudblkQueue *queue)
{
    req->queue = queue;
    req->memory = NULL;
    req->in_bytes = iov_size(req->elem.in_sg, req->elem.in_num);
    req->out_bytes = iov_size(req->elem.out_sg, req->elem.out_num);
    queue->popped++;
}

/* ---- Reads and writes ---- */

static bool range_ok(CloudblkDisk *disk, uint64_t sector, uint64_t length)
{
    uint64_t capacity = qatomic_read(&disk->capacity) >> BDRV_SECTOR_BITS;
    uint64_t sectors = length >> BDRV_SECTOR_BITS;
    uint32_t block_sectors = disk->logical_block_size >> BDRV_SECTOR_BITS;

    return sectors <= BDRV_REQUEST_MAX_SECTORS &&
           !(length & (disk->logical_block_size - 1)) &&
           !(sector & (block_sectors - 1)) && sector <= capacity &&
           sectors <= capacity - sector;
}

/*
 * Without a write cache, what is written is durable before the guest is told.
 */
static uint32_t write_flags(CloudblkDisk *disk)
{
    return disk->volume_has_cache && !qatomic_read(&disk->write_cache)
               ? CLOUDBLK_REQUEST_FUA
               : 0;
}

/* Returns as start(). */
static int submit(CloudblkReq *req, CloudblkRequest *request)
{
    int ret;

    request->opaque = req;
    /* cloudblk_queue_run() kicks */
    request->flags |= CLOUDBLK_REQUEST_MORE;
    ret = cloudblk_channel_submit(req->queue->loop->channel, request);
    return ret < 0 ? ret : -EINPROGRESS;
}

/* Reads into all device-writable bytes but the last, which is the status. */
static int submit_read(CloudblkReq *req, uint64_t sector)
{
    VirtQueueElement *elem = &req->elem;
    struct iovec *last = &elem->in_sg[elem->in_num - 1];
    uint64_t length = req->in_bytes - 1;
    CloudblkRequest request = {};
    int ret;

    if (!range_ok(req->queue->disk, sector, length)) {
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
    return ret;
}

/* Writes all device-readable bytes behind the header. */
static int submit_write(CloudblkReq *req, uint64_t sector)
{
    CloudblkDisk *disk = req->queue->disk;
    VirtQueueElement *elem = &req->elem;
    struct iovec *first = elem->out_sg;
    uint64_t length = req->out_bytes - sizeof(struct virtio_blk_outhdr);
    size_t header = sizeof(struct virtio_blk_outhdr);
    struct iovec whole;
    CloudblkRequest request = {};
    int ret;

    if (disk->read_only) {
        return -EROFS;
    }
    if (!range_ok(disk, sector, length)) {
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
    request.flags = write_flags(disk);
    request.offset = sector << BDRV_SECTOR_BITS;
    request.iov = first;
    request.iov_count = elem->out_sg + elem->out_num - first;
    ret = submit(req, &request);
    *first = whole;
    return ret;
}

/* ---- Everything else ---- */

static int submit_flush(CloudblkReq *req, bool again)
{
    CloudblkRequest request = {
        .operation = CLOUDBLK_OP_FLUSH,
        .flags = again ? CLOUDBLK_REQUEST_AGAIN : 0,
    };

    return submit(req, &request);
}

/*
 * Answers with the serial number, padded with zeros to the size of the field.
 */
static int get_id(CloudblkReq *req)
{
    VirtQueueElement *elem = &req->elem;
    const char *serial = req->queue->disk->serial;
    char id[VIRTIO_BLK_ID_BYTES] = "";
    size_t room = req->in_bytes - 1;

    if (serial) {
        memcpy(id, serial, MIN(strlen(serial), sizeof(id)));
    }
    iov_from_buf(elem->in_sg, elem->in_num, 0, id, MIN(room, sizeof(id)));
    return 0;
}

/* One range of a discard or write-zeroes. 0, or what the guest is answered. */
static int parse_range(CloudblkDisk *disk, bool discard,
                       const struct virtio_blk_discard_write_zeroes *from,
                       CloudblkRange *range)
{
    VirtIODevice *vdev = disk->vdev;
    uint64_t sector = virtio_ldq_p(vdev, &from->sector);
    uint32_t sectors = virtio_ldl_p(vdev, &from->num_sectors);
    uint32_t flags = virtio_ldl_p(vdev, &from->flags);
    uint32_t known = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    uint32_t max = discard ? disk->max_discard_sectors
                           : disk->max_write_zeroes_sectors;

    if (flags & ~known) {
        return -ENOTSUP;
    }
    range->offset = sector << BDRV_SECTOR_BITS;
    range->length = (uint64_t)sectors << BDRV_SECTOR_BITS;
    range->flags = flags ? CLOUDBLK_RANGE_UNMAP : 0;
    if (sectors > max || !range_ok(disk, sector, range->length)) {
        return -EINVAL;
    }
    return 0;
}

static int submit_ranges(CloudblkReq *req, bool discard)
{
    CloudblkDisk *disk = req->queue->disk;
    VirtQueueElement *elem = &req->elem;
    struct virtio_blk_discard_write_zeroes from;
    size_t offset = sizeof(struct virtio_blk_outhdr);
    size_t size = req->out_bytes;
    CloudblkRange ranges[CLOUDBLK_MAX_RANGES];
    CloudblkRequest request = {};
    uint32_t count = 0;
    int ret;

    if (!virtio_vdev_has_feature(disk->vdev,
                                 discard ? VIRTIO_BLK_F_DISCARD
                                         : VIRTIO_BLK_F_WRITE_ZEROES)) {
        return -ENOTSUP;
    }
    if (disk->read_only) {
        return -EROFS;
    }
    if (size == offset || (size - offset) % sizeof(from)) {
        return -EINVAL;
    }
    if ((size - offset) / sizeof(from) > disk->max_ranges) {
        return -ENOTSUP;
    }
    for (; offset < size; offset += sizeof(from)) {
        iov_to_buf(elem->out_sg, elem->out_num, offset, &from, sizeof(from));
        ret = parse_range(disk, discard, &from, &ranges[count]);
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
    request.flags = discard ? 0 : write_flags(disk);
    request.ranges = ranges;
    request.range_count = count;
    return submit(req, &request);
}

/* ---- All of them ---- */

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

/* -EINPROGRESS: the engine has it. Else it is to be answered with that. */
static int start(CloudblkReq *req, bool again)
{
    VirtIODevice *vdev = req->queue->disk->vdev;
    VirtQueueElement *elem = &req->elem;
    struct virtio_blk_outhdr header;
    uint64_t sector;
    uint32_t type;

    iov_to_buf(elem->out_sg, elem->out_num, 0, &header, sizeof(header));
    sector = virtio_ldq_p(vdev, &header.sector);
    /*
     * The barrier bit is a relic of drivers before virtio 1.0 and never meant
     * anything here
     */
    type = virtio_ldl_p(vdev, &header.type) & ~VIRTIO_BLK_T_BARRIER;
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

void cloudblk_request_start(CloudblkReq *req, bool again)
{
    const char *fault = find_fault(req);
    int result;

    if (fault) {
        CloudblkDisk *disk = req->queue->disk;

        disk->ops->broken(disk, "cloudblk: %s", fault);
        cloudblk_drop(req, 0);
        return;
    }
    result = start(req, again);
    if (result != -EINPROGRESS) {
        cloudblk_answer(req, result);
    }
}
