/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which loop serves which queue, from the properties iothread, iothreads and
 * iothread-vq-mapping.
 */
#include "cloudblk-device.h"

#include "hw/virtio/virtio-bus.h"

#include "cloudblk-loop.h"
#include "cloudblk-queue.h"

/* Gives the queues to the IOThreads named in conf.iothreads, in turn. */
static bool map_iothreads_by_name(CloudblkDevice *dev, IOThread **iothreads,
                                  Error **errp)
{
    g_auto(GStrv) names = g_strsplit(dev->conf.iothreads, ":", -1);
    unsigned count = g_strv_length(names);
    unsigned i;

    if (!count) {
        error_setg(errp, "iothreads is empty, name IOThread objects as in "
                         "iothreads=io0:io1");
        return false;
    }
    for (i = 0; i < count; i++) {
        if (!*names[i]) {
            error_setg(errp, "iothreads has an empty name, name IOThread "
                             "objects as in iothreads=io0:io1");
            return false;
        }
        if (!iothread_by_id(names[i])) {
            error_setg(errp,
                       "there is no IOThread '%s', add -object iothread,id=%s",
                       names[i], names[i]);
            return false;
        }
    }
    for (i = 0; i < dev->conf.num_queues; i++) {
        iothreads[i] = iothread_by_id(names[i % count]);
    }
    return true;
}

static bool check_iothread_support(CloudblkDevice *dev, Error **errp)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtioBusClass *k = VIRTIO_BUS_GET_CLASS(qdev_get_parent_bus(DEVICE(dev)));
    CloudblkConf *conf = &dev->conf;

    if (!!conf->iothread + !!conf->iothreads + !!conf->iothread_vq_mapping >
        1) {
        error_setg(
            errp,
            "set only one of iothread, iothreads and iothread-vq-mapping");
        return false;
    }
    dev->has_iothread =
        conf->iothread || conf->iothreads || conf->iothread_vq_mapping;
    if (dev->has_iothread && (!k->set_guest_notifiers || !k->ioeventfd_assign ||
                              !virtio_device_ioeventfd_enabled(vdev))) {
        error_setg(
            errp,
            "an iothread needs ioeventfd=on and a transport with notifiers");
        return false;
    }
    return true;
}

/* The loop of `iothread`, or, if that is NULL, of the main loop. */
static CloudblkLoop *find_loop(CloudblkDisk *disk, IOThread *iothread)
{
    CloudblkLoop *loop;

    for (loop = disk->loops; loop < disk->loops + disk->num_loops; loop++) {
        if (loop->iothread == iothread) {
            return loop;
        }
    }
    disk->num_loops++;
    cloudblk_loop_init(loop, disk, iothread);
    return loop;
}

bool cloudblk_iothreads_init(CloudblkDevice *dev, Error **errp)
{
    CloudblkConf *conf = &dev->conf;
    unsigned num_queues = conf->num_queues;
    g_autofree IOThread **iothreads = g_new0(IOThread *, num_queues);
    unsigned i;

    if (!check_iothread_support(dev, errp)) {
        return false;
    }
    for (i = 0; i < num_queues; i++) {
        iothreads[i] = conf->iothread;
    }
    if (conf->iothreads && !map_iothreads_by_name(dev, iothreads, errp)) {
        return false;
    }
    if (conf->iothread_vq_mapping &&
        !cloudblk_compat_vq_mapping_apply(conf->iothread_vq_mapping, iothreads,
                                          num_queues, errp)) {
        return false;
    }
    /* As many as there may be: the queues point into it */
    dev->disk.loops = g_new0(CloudblkLoop, num_queues);
    dev->queues = g_new0(CloudblkQueue, num_queues);
    for (i = 0; i < num_queues; i++) {
        cloudblk_queue_init(&dev->queues[i],
                            find_loop(&dev->disk, iothreads[i]));
    }
    return true;
}

void cloudblk_iothreads_cleanup(CloudblkDevice *dev)
{
    CloudblkDisk *disk = &dev->disk;
    unsigned i;

    for (i = 0; i < disk->num_loops; i++) {
        cloudblk_loop_cleanup(&disk->loops[i]);
    }
    g_free(dev->queues);
    dev->queues = NULL;
    g_free(disk->loops);
    disk->loops = NULL;
    disk->num_loops = 0;
}
