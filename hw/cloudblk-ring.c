/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The split virtqueue, as the device reads it (virtio 1.2, 2.7). */
#include "cloudblk-ring.h"

#include "hw/virtio/virtio-access.h"
#include "standard-headers/linux/virtio_ring.h"

#include "cloudblk-memory.h"
#include "cloudblk-request.h"

/*
 * A request with at most that many buffers is kept and used again. Larger ones
 * carry so much data that an allocation does not matter.
 */
#define SPARE_BUFFERS 36

/*
 * The buffers of the chain that is being read: those that the device reads,
 * then those that it writes.
 */
struct CloudblkRingScratch {
    unsigned out_num;
    unsigned in_num;
    size_t out_bytes;
    size_t in_bytes;
    struct iovec sg[VIRTQUEUE_MAX_SIZE];
    hwaddr address[VIRTQUEUE_MAX_SIZE];
};

/* The descriptors of one chain: the ring's own, or an indirect table. */
typedef struct Table {
    const uint8_t *entries;
    unsigned count;
} Table;

/* ---- Batches ---- */

/* Where `size` bytes of guest memory are. NULL: they lie not in one piece. */
static const uint8_t *map_area(CloudblkMemory *memory, hwaddr address,
                               hwaddr size)
{
    hwaddr length = size;
    const uint8_t *area = cloudblk_memory_map(memory, address, &length, false);

    return length == size ? area : NULL;
}

bool cloudblk_ring_open(CloudblkRing *ring, CloudblkQueue *queue)
{
    CloudblkDisk *disk = queue->disk;
    VirtIODevice *vdev = disk->vdev;
    int index = virtio_get_queue_index(queue->vq);
    CloudblkMemory *memory;

    if (virtio_vdev_has_feature(vdev, VIRTIO_F_RING_PACKED)) {
        return false;
    }
    memory = cloudblk_memory_get(queue->loop);
    if (!memory) {
        return false;
    }
    /*
     * The driver may be writing the queue's registers now. What is used here is
     * what is read here, so it can only harm itself
     */
    *ring = (CloudblkRing){
        .queue = queue,
        .vdev = vdev,
        .memory = memory,
        .size = virtio_queue_get_num(vdev, index),
        .next = virtio_queue_get_last_avail_idx(vdev, index),
    };
    ring->end = ring->next;
    if (!ring->size || !virtio_queue_get_desc_addr(vdev, index)) {
        return false;
    }
    ring->descriptors =
        map_area(memory, virtio_queue_get_desc_addr(vdev, index),
                 ring->size * sizeof(struct vring_desc));
    ring->available =
        map_area(memory, virtio_queue_get_avail_addr(vdev, index),
                 offsetof(struct vring_avail, ring) +
                     ring->size * sizeof(uint16_t));
    if (ring->descriptors && ring->available) {
        if (!queue->loop->scratch) {
            queue->loop->scratch = g_new(CloudblkRingScratch, 1);
        }
        return true;
    }
    if (cloudblk_memory_is_translated(memory)) {
        return false;
    }
    if (!virtio_device_disabled(vdev)) {
        disk->ops->broken(disk, "cloudblk: virtqueue outside memory");
    }
    ring->size = 0;
    return true;
}

void cloudblk_ring_close(CloudblkRing *ring)
{
    VirtQueue *vq = ring->queue->vq;

    /*
     * Also if nothing was taken. QEMU remembers the driver's index as it saw it
     * last, and takes the queue for not empty until we are there. With a driver
     * that sets its index back that would be for ever. This makes QEMU forget
     */
    if (ring->size) {
        virtio_queue_set_last_avail_idx(
            ring->vdev, virtio_get_queue_index(vq), ring->next);
    }
    if (ring->taken) {
        cloudblk_compat_count_popped(vq, ring->taken);
    }
}

/* ---- Chains ---- */

static struct vring_desc read_descriptor(VirtIODevice *vdev, const Table *table,
                                         unsigned index)
{
    struct vring_desc raw;

    /* Once: the driver may change it */
    memcpy(&raw, table->entries + index * sizeof(raw), sizeof(raw));
    barrier();
    return (struct vring_desc){
        .addr = virtio_ldq_p(vdev, &raw.addr),
        .len = virtio_ldl_p(vdev, &raw.len),
        .flags = virtio_lduw_p(vdev, &raw.flags),
        .next = virtio_lduw_p(vdev, &raw.next),
    };
}

/* NULL, or what is wrong with it. */
static const char *add_buffer(CloudblkRing *ring, const struct vring_desc *desc)
{
    CloudblkRingScratch *scratch = ring->queue->loop->scratch;
    bool is_write = desc->flags & VRING_DESC_F_WRITE;
    hwaddr address = desc->addr;
    hwaddr left = desc->len;

    if (!left) {
        return "empty buffer";
    }
    if (!is_write && scratch->in_num) {
        return "buffer to be read behind one to be written";
    }
    while (left) {
        unsigned n = scratch->out_num + scratch->in_num;
        hwaddr length = left;
        uint8_t *base;

        if (n == VIRTQUEUE_MAX_SIZE) {
            return "too many buffers";
        }
        base = cloudblk_memory_map(ring->memory, address, &length, is_write);
        if (!base) {
            return "buffer outside memory";
        }
        scratch->sg[n].iov_base = base;
        scratch->sg[n].iov_len = length;
        scratch->address[n] = address;
        scratch->in_num += is_write;
        scratch->out_num += !is_write;
        address += length;
        left -= length;
    }
    *(is_write ? &scratch->in_bytes : &scratch->out_bytes) += desc->len;
    return NULL;
}

/* Replaces the ring's descriptors by the table that *desc names. */
static const char *enter_indirect(CloudblkRing *ring, struct vring_desc *desc,
                                  Table *table)
{
    if (!desc->len || desc->len % sizeof(*desc)) {
        return "wrong size of an indirect table";
    }
    table->entries = map_area(ring->memory, desc->addr, desc->len);
    if (!table->entries) {
        return "indirect table outside memory";
    }
    table->count = desc->len / sizeof(*desc);
    *desc = read_descriptor(ring->vdev, table, 0);
    return NULL;
}

/* Collects the buffers of the chain that begins at `head`. */
static const char *read_chain(CloudblkRing *ring, uint16_t head)
{
    CloudblkRingScratch *scratch = ring->queue->loop->scratch;
    VirtIODevice *vdev = ring->vdev;
    Table table = { ring->descriptors, ring->size };
    struct vring_desc desc = read_descriptor(vdev, &table, head);
    const char *wrong = NULL;
    unsigned length = 0;

    scratch->out_num = scratch->in_num = 0;
    scratch->out_bytes = scratch->in_bytes = 0;
    if (desc.flags & VRING_DESC_F_INDIRECT) {
        wrong = enter_indirect(ring, &desc, &table);
    }
    while (!wrong) {
        wrong = add_buffer(ring, &desc);
        if (wrong || !(desc.flags & VRING_DESC_F_NEXT)) {
            break;
        }
        if (++length == table.count) {
            wrong = "loop of descriptors";
        } else if (desc.next >= table.count) {
            wrong = "descriptor that does not exist";
        } else {
            desc = read_descriptor(vdev, &table, desc.next);
        }
    }
    return wrong;
}

/* ---- Requests ---- */

static CloudblkReq *new_request(CloudblkLoop *loop, unsigned buffers)
{
    CloudblkReq *req = QSIMPLEQ_FIRST(&loop->spare);
    bool spare = buffers <= SPARE_BUFFERS;

    if (spare && req) {
        QSIMPLEQ_REMOVE_HEAD(&loop->spare, next);
        return req;
    }
    req = g_malloc(sizeof(*req) + MAX(buffers, SPARE_BUFFERS) *
                                      (sizeof(struct iovec) + sizeof(hwaddr)));
    req->spare = spare;
    return req;
}

/* A request of what was collected. */
static CloudblkReq *make_request(CloudblkRing *ring, uint16_t head)
{
    CloudblkRingScratch *scratch = ring->queue->loop->scratch;
    unsigned buffers = scratch->out_num + scratch->in_num;
    CloudblkReq *req = new_request(ring->queue->loop, buffers);
    VirtQueueElement *elem = &req->elem;
    struct iovec *sg = (struct iovec *)(req + 1);
    hwaddr *address = (hwaddr *)(sg + buffers);
    unsigned i;

    for (i = 0; i < buffers; i++) {
        sg[i] = scratch->sg[i];
        address[i] = scratch->address[i];
    }
    elem->index = head;
    elem->ndescs = 1;
    elem->out_num = scratch->out_num;
    elem->in_num = scratch->in_num;
    elem->out_sg = sg;
    elem->in_sg = sg + elem->out_num;
    elem->out_addr = address;
    elem->in_addr = address + elem->out_num;
    req->queue = ring->queue;
    req->memory = cloudblk_memory_ref(ring->memory);
    req->out_bytes = scratch->out_bytes;
    req->in_bytes = scratch->in_bytes;
    return req;
}

/* Whether there is another entry, or the driver's index makes no sense. */
static bool has_next(CloudblkRing *ring, const char **wrong)
{
    if (ring->next != ring->end) {
        return true;
    }
    ring->end = virtio_lduw_p(ring->vdev,
                              ring->available +
                                  offsetof(struct vring_avail, idx));
    if ((uint16_t)(ring->end - ring->next) > ring->size) {
        *wrong = "index of the available ring";
    }
    /* What the index covers was written before it */
    smp_rmb();
    return ring->next != ring->end;
}

CloudblkReq *cloudblk_ring_pop(CloudblkRing *ring)
{
    VirtIODevice *vdev = ring->vdev;
    const char *wrong = NULL;
    uint16_t head;

    if (!ring->size || virtio_device_disabled(vdev) ||
        !has_next(ring, &wrong)) {
        return NULL;
    }
    if (!wrong && ring->queue->popped >= ring->size) {
        wrong = "more requests than entries";
    }
    if (!wrong) {
        head = virtio_lduw_p(vdev,
                             ring->available +
                                 offsetof(struct vring_avail, ring) +
                                 ring->next++ % ring->size *
                                     sizeof(uint16_t));
        barrier();
        wrong = head < ring->size ? read_chain(ring, head) : "head of a chain";
    }
    if (wrong) {
        CloudblkDisk *disk = ring->queue->disk;

        disk->ops->broken(disk, "cloudblk: wrong in the virtqueue: %s", wrong);
        return NULL;
    }
    ring->taken++;
    ring->queue->popped++;
    return make_request(ring, head);
}

void cloudblk_ring_free(CloudblkReq *req)
{
    cloudblk_memory_unref(req->memory);
    if (req->spare) {
        QSIMPLEQ_INSERT_HEAD(&req->queue->loop->spare, req, next);
    } else {
        g_free(req);
    }
}

void cloudblk_ring_cleanup(CloudblkLoop *loop)
{
    CloudblkReq *req, *next;

    QSIMPLEQ_FOREACH_SAFE(req, &loop->spare, next, next) {
        g_free(req);
    }
    QSIMPLEQ_INIT(&loop->spare);
    g_free(loop->scratch);
    loop->scratch = NULL;
}
