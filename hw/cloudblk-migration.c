/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live migration: the stream, and how the volume passes from the source to the
 * destination.
 *
 * The destination observes the volume until the stream has told it which
 * session it continues. The source releases the volume to a token, the last
 * thing before its state is sent; whoever runs first with the token has it.
 */
#include "cloudblk-device.h"

#include "migration/qemu-file-types.h"
#include "migration/vmstate.h"
#include "qemu/error-report.h"

#include "cloudblk-loop.h"
#include "cloudblk-request.h"

/*
 * How long the servers may take to take the volumes back, which includes a
 * flush, all at once. The VM stands still meanwhile.
 */
#define RELEASE_TIMEOUT_MS 3000

struct CloudblkDeviceList cloudblk_devices =
    QLIST_HEAD_INITIALIZER(cloudblk_devices);

/* ---- Requests in the stream ---- */

/*
 * Not qemu_put_virtqueue_element(): with a packed ring, QEMU's counterpart
 * expects the fields in another order.
 */
static void put_buffers(QEMUFile *f, const hwaddr *address,
                        const struct iovec *sg, unsigned count)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        qemu_put_be64(f, address[i]);
        qemu_put_be32(f, sg[i].iov_len);
    }
}

static void get_buffers(QEMUFile *f, hwaddr *address, struct iovec *sg,
                        unsigned count)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        address[i] = qemu_get_be64(f);
        sg[i].iov_len = qemu_get_be32(f);
    }
}

static void put_list(QEMUFile *f, uint32_t index, const CloudblkReqList *list)
{
    CloudblkReq *req;

    QSIMPLEQ_FOREACH(req, list, next) {
        VirtQueueElement *elem = &req->elem;

        qemu_put_byte(f, 1);
        qemu_put_be32(f, index);
        qemu_put_be32(f, elem->index);
        qemu_put_be32(f, elem->ndescs);
        qemu_put_be32(f, elem->in_num);
        qemu_put_be32(f, elem->out_num);
        put_buffers(f, elem->in_addr, elem->in_sg, elem->in_num);
        put_buffers(f, elem->out_addr, elem->out_sg, elem->out_num);
    }
}

/* NULL: the stream is wrong. */
static CloudblkReq *get_request(QEMUFile *f, CloudblkDevice *dev)
{
    uint32_t queue = qemu_get_be32(f);
    uint32_t index = qemu_get_be32(f);
    uint32_t ndescs = qemu_get_be32(f);
    uint32_t in_num = qemu_get_be32(f);
    uint32_t out_num = qemu_get_be32(f);
    VirtQueueElement *elem;
    CloudblkReq *req;

    if (queue >= dev->conf.num_queues || in_num > VIRTQUEUE_MAX_SIZE ||
        out_num > VIRTQUEUE_MAX_SIZE) {
        return NULL;
    }
    /* One block, as virtqueue_pop() makes it */
    req = g_malloc0(sizeof(*req) + (in_num + out_num) *
                                       (sizeof(struct iovec) + sizeof(hwaddr)));
    elem = &req->elem;
    elem->index = index;
    elem->ndescs = ndescs;
    elem->in_num = in_num;
    elem->out_num = out_num;
    elem->in_sg = (struct iovec *)(req + 1);
    elem->out_sg = elem->in_sg + in_num;
    elem->in_addr = (hwaddr *)(elem->out_sg + out_num);
    elem->out_addr = elem->in_addr + in_num;
    get_buffers(f, elem->in_addr, elem->in_sg, in_num);
    get_buffers(f, elem->out_addr, elem->out_sg, out_num);
    virtqueue_map(VIRTIO_DEVICE(dev), elem);
    cloudblk_request_init(req, &dev->queues[queue]);
    return req;
}

static int put_requests(QEMUFile *f, void *pv, size_t size,
                        const VMStateField *field, JSONWriter *vmdesc)
{
    CloudblkDevice *dev = pv;
    unsigned i;

    for (i = 0; i < dev->conf.num_queues; i++) {
        put_list(f, i, &dev->queues[i].retry);
        put_list(f, i, &dev->queues[i].kept);
    }
    qemu_put_byte(f, 0);
    return 0;
}

static int get_requests(QEMUFile *f, void *pv, size_t size,
                        const VMStateField *field)
{
    CloudblkDevice *dev = pv;

    while (qemu_get_byte(f)) {
        CloudblkReq *req = get_request(f, dev);

        if (!req) {
            error_report("cloudblk: the migration stream names queues or "
                         "buffers that %s does not have here",
                         dev->conf.server);
            return -EINVAL;
        }
        QSIMPLEQ_INSERT_TAIL(&req->queue->kept, req, next);
    }
    return 0;
}

static const VMStateInfo requests_info = {
    .name = "cloudblk requests",
    .get = get_requests,
    .put = put_requests,
};

/* ---- Leaving ---- */

/*
 * Gives up the volumes of all disks, so that the VM stands still as long as the
 * slowest takes, not as long as all of them. If one stays here the migration
 * fails, and all are taken back.
 */
static void leave_all(void)
{
    g_autofree CloudblkRelease *releases = NULL;
    CloudblkDevice *dev;
    unsigned count = 0;
    unsigned i;

    QLIST_FOREACH(dev, &cloudblk_devices, next) {
        count++;
    }
    releases = g_new0(CloudblkRelease, count);
    count = 0;
    QLIST_FOREACH(dev, &cloudblk_devices, next) {
        dev->leaving = true;
        for (i = 0; i < dev->disk.num_loops; i++) {
            cloudblk_loop_detach(&dev->disk.loops[i]);
        }
        releases[count++].session = dev->session;
    }
    cloudblk_session_release_all(releases, count, RELEASE_TIMEOUT_MS);
    count = 0;
    QLIST_FOREACH(dev, &cloudblk_devices, next) {
        CloudblkRelease *release = &releases[count++];

        for (i = 0; i < dev->disk.num_loops; i++) {
            cloudblk_loop_attach(&dev->disk.loops[i], qemu_get_aio_context());
        }
        if (release->result < 0) {
            error_report("cloudblk: cannot give up %s, so it stays here: %s",
                         dev->conf.server, release->error);
        }
        dev->left = true;
        dev->leave_result = release->result;
    }
}

static int leave(void *opaque)
{
    CloudblkDevice *dev = opaque;

    /* A snapshot would have to hold the disk as it is now */
    if (!runstate_check(RUN_STATE_FINISH_MIGRATE)) {
        error_report("cloudblk: the state of a disk on a server (%s) cannot be "
                     "saved in a snapshot, unplug it first",
                     dev->conf.server);
        return -ENOTSUP;
    }
    /* Two that run with one disk */
    if (migrate_colo()) {
        error_report("cloudblk: a disk on a server (%s) cannot be in two VMs, "
                     "unplug it or set the capability x-colo to false",
                     dev->conf.server);
        return -ENOTSUP;
    }
    if (!dev->left) {
        leave_all();
    }
    /* What is saved next time is of another attempt */
    dev->left = false;
    if (dev->leave_result < 0) {
        return dev->leave_result;
    }
    dev->identity.size = sizeof(dev->identity);
    cloudblk_session_export(dev->session, &dev->identity);
    return 0;
}

/* ---- Arriving ---- */

static int arrive(void *opaque, int version_id)
{
    CloudblkDevice *dev = opaque;
    char message[512];
    int ret;

    dev->identity.size = sizeof(dev->identity);
    ret = cloudblk_session_adopt(dev->session, &dev->identity, message,
                                 sizeof(message));
    if (ret < 0) {
        error_report("cloudblk: cannot take %s over: %s", dev->conf.server,
                     message);
    }
    return ret;
}

void cloudblk_migration_run(CloudblkDevice *dev)
{
    char message[512];
    int ret;

    dev->leaving = dev->left = false;
    ret = cloudblk_session_claim(dev->session, message, sizeof(message));
    if (ret == 0) {
        return;
    }
    error_report("cloudblk: %s is not ours, its requests fail: %s",
                 dev->conf.server, message);
    if (ret == -ESTALE) {
        cloudblk_stop_moved();
    }
}

void cloudblk_migration_failed(CloudblkMigrationWatch *watch)
{
    CloudblkDevice *dev = container_of(watch, CloudblkDevice, migration_watch);

    if (dev->leaving && !dev->running) {
        cloudblk_migration_run(dev);
    }
}

void cloudblk_stop_moved(void)
{
    /* With a disk that is out of date it must not go on here */
    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(RUN_STATE_IO_ERROR);
}

const VMStateDescription cloudblk_vmstate = {
    .name = "cloudblk",
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = leave,
    .post_load = arrive,
    .fields = (VMStateField[]){
        VMSTATE_VIRTIO_DEVICE,
        {
            /* Named as it always was in the stream's description of itself */
            .name = "write_cache",
            .info = &vmstate_info_bool,
            .size = sizeof(bool),
            .flags = VMS_SINGLE,
            .offset = vmstate_offset_value(CloudblkDevice, disk.write_cache,
                                           bool),
        },
        VMSTATE_UINT8_ARRAY(identity.session_uuid, CloudblkDevice, 16),
        VMSTATE_UINT8_ARRAY(identity.volume_uuid, CloudblkDevice, 16),
        VMSTATE_UINT8_ARRAY(identity.token, CloudblkDevice, 16),
        VMSTATE_UINT64(identity.epoch, CloudblkDevice),
        VMSTATE_UINT64(identity.generation, CloudblkDevice),
        VMSTATE_BOOL(identity.unflushed, CloudblkDevice),
        VMSTATE_BOOL(identity.lost, CloudblkDevice),
        {
            .name = "requests",
            .info = &requests_info,
            .flags = VMS_SINGLE,
        },
        VMSTATE_END_OF_LIST() },
};
