/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cloudblk: a virtio block device whose disk lives on a storage server.
 *
 * This is the device as control sees it: the files that realize and configure
 * it, and that say when its queues are served. What happens to requests is in
 * the data path, which does not include this. See cloudblk-disk.h.
 */
#ifndef CLOUDBLK_DEVICE_H
#define CLOUDBLK_DEVICE_H

#include "qemu-compat.h"

#include "cloudblk.h"
#include "cloudblk-disk.h"

#define TYPE_CLOUDBLK_DEVICE "cloudblk-device"
OBJECT_DECLARE_SIMPLE_TYPE(CloudblkDevice, CLOUDBLK_DEVICE)

#define CLOUDBLK_AUTO_NUM_QUEUES UINT16_MAX
typedef struct CloudblkConf {
    /* Ours */
    char *server;
    char *iothreads;
    char *tls_creds;    /* NULL: none */
    char *tls_hostname; /* NULL: the server URI's host */
    uint32_t open_timeout_ms;
    uint32_t request_timeout_s; /* big QEMU lock: may change later */
    uint32_t server_timeout; /* seconds */
    bool takeover;
    bool payload_crc;
    bool read_only;
    /* As virtio-blk's */
    IOThread *iothread;
    CloudblkVqMapping *iothread_vq_mapping;
    char *serial;
    uint16_t num_queues;
    uint16_t queue_size;
    bool seg_max_adjust;
    bool report_discard_granularity;
    bool share_rw;
    bool wce_if_config_wce;
    OnOffAuto backend_defaults;
    OnOffAuto write_cache;
    BlockdevOnError rerror, werror;
    uint32_t max_discard_sectors;
    uint32_t max_write_zeroes_sectors;
    uint32_t logical_block_size;
    uint32_t physical_block_size;
    uint32_t min_io_size;
    uint32_t opt_io_size;
    uint32_t discard_granularity;
    uint32_t cyls, heads, secs;
    uint32_t lcyls, lheads, lsecs;
    int32_t bootindex;
} CloudblkConf;

struct CloudblkDevice {
    VirtIODevice parent_obj;

    /* What the data path sees of it */
    CloudblkDisk disk;

    /* Constant after realize */
    CloudblkConf conf;
    uint64_t host_features;
    size_t config_size;
    CloudblkSession *session;
    CloudblkInfo info;
    CloudblkQueue *queues;
    bool has_iothread;
    bool default_write_cache;
    QEMUBH *resume_bh;
    QEMUTimer *stop_timer;
    QEMUBH *config_bh;
    VMChangeStateEntry *vm_state;
    CloudblkMigrationWatch migration_watch;
    Notifier exit_notifier;
    Notifier machine_done;
    uint32_t open_took_ms; /* to observe */

    /* Big QEMU lock */
    QLIST_ENTRY(CloudblkDevice) next;
    bool flush_wanted; /* by cloudblk_drain(), once nothing is in flight */
    /* The present stop's time to wait was spent, on all disks together */
    bool stop_drained;
    bool running; /* the VM runs: the device may touch guest memory */
    /* The loops read it too, but are told to start after it was set */
    bool ioeventfd_started;
    bool ioeventfd_starting;
    bool ioeventfd_stopping;
    bool ioeventfd_disabled; /* the queues are served by the main loop */
    /* Migrating */
    CloudblkIdentity identity; /* as in the stream */
    bool leaving; /* the volume was given up, or may be, and not taken back */
    bool left;    /* at the present attempt to migrate, with leave_result */
    int leave_result;

    /* Shared, atomic */
    int io_status; /* BlockDeviceIoStatus: why requests wait for a continue */
};

static inline CloudblkDevice *cloudblk_device_of(CloudblkDisk *disk)
{
    return container_of(disk, CloudblkDevice, disk);
}

/* All that are realized. Big QEMU lock. */
extern QLIST_HEAD(CloudblkDeviceList, CloudblkDevice) cloudblk_devices;

/* cloudblk-config.c: limits, block sizes and the configuration space. */

/* Checks the properties that can be judged without the volume. */
bool cloudblk_config_check(CloudblkDevice *dev, Error **errp);
/* Fills in what the user left open from dev->info and checks the rest. */
bool cloudblk_config_init(CloudblkDevice *dev, Error **errp);
void cloudblk_get_config(VirtIODevice *vdev, uint8_t *config);
/* Whether the guest, when it last looked, saw another capacity. */
bool cloudblk_config_is_stale(CloudblkDevice *dev);
void cloudblk_set_config(VirtIODevice *vdev, const uint8_t *config);
uint64_t cloudblk_get_features(VirtIODevice *vdev, uint64_t features,
                               Error **errp);
CLOUDBLK_SET_STATUS_RESULT cloudblk_set_status(VirtIODevice *vdev,
                                               uint8_t status);

/* cloudblk-device.c: its session, realize and unrealize. */

/*
 * A disk that observes takes the volume, from its holder if takeover says so.
 * The last thing: nothing may come after it that can fail. At start the device
 * does it by itself. Big QEMU lock.
 */
bool cloudblk_activate(CloudblkDevice *dev, Error **errp);

/* cloudblk-tls.c: tls-creds. */

/*
 * What tls-creds and tls-hostname say; false: error is set. Big QEMU lock. In
 * either case cloudblk_tls_clear() follows.
 */
bool cloudblk_tls_find(CloudblkDevice *dev, CloudblkTls *tls, Error **errp);
void cloudblk_tls_clear(CloudblkTls *tls);

/* cloudblk-error.c: werror and rerror. */

/* Two of CloudblkDiskOps. Any thread. */
BlockErrorAction cloudblk_error_action(CloudblkDisk *disk, bool is_read,
                                       int error);
void cloudblk_error_raise(CloudblkDisk *disk, BlockErrorAction action,
                          bool is_read, int error);
/* Adds io-status, server-status and request-timeout to the class. */
void cloudblk_error_class_init(ObjectClass *klass);

/* cloudblk-ioeventfd.c: who serves the queues. Big QEMU lock held. */

int cloudblk_start_ioeventfd(VirtIODevice *vdev);
void cloudblk_stop_ioeventfd(VirtIODevice *vdev);
/* A kick. While ioeventfd is on, a loop calls it, without the lock. */
void cloudblk_handle_output(VirtIODevice *vdev, VirtQueue *vq);

/* cloudblk-iothreads.c: which loop serves which queue. */

/*
 * Makes the disk's loops, one per AioContext in use, and the queues, from the
 * properties iothread, iothreads and iothread-vq-mapping.
 */
bool cloudblk_iothreads_init(CloudblkDevice *dev, Error **errp);
void cloudblk_iothreads_cleanup(CloudblkDevice *dev);

/* cloudblk-machine.c: what differs between machine types. */

/*
 * Sets the properties that the machine type sets on QEMU's own `virtio_type`.
 * For instance_init: the user's settings come after and win.
 */
void cloudblk_machine_defaults(Object *obj, const char *virtio_type);

/* cloudblk-migration.c: from one QEMU to another. Big QEMU lock held. */

extern const VMStateDescription cloudblk_vmstate;

/* The VM is about to run or will again: the volume has to be ours. */
void cloudblk_migration_run(CloudblkDevice *dev);
/*
 * A VM that was running has taken the volume back by now. One that was not does
 * so here, as nobody else will.
 */
void cloudblk_migration_failed(CloudblkMigrationWatch *watch);
/* Stops the VM, as it may run elsewhere now, with the volume. Any thread. */
void cloudblk_stop_moved(void);

/* cloudblk-properties.c: what a user sets. */

/* Adds the properties and their descriptions to the class. */
void cloudblk_properties_class_init(ObjectClass *klass);

typedef struct CloudblkPropertyText {
    const char *name;
    const char *text;
} CloudblkPropertyText;

/* Describes those of the class's properties that exist in this release. */
void cloudblk_set_property_texts(ObjectClass *klass,
                                 const CloudblkPropertyText *texts,
                                 size_t count);

/* cloudblk-run.c: stop, continue and reset. Big QEMU lock held. */

/* Follows the VM's state from now on. */
void cloudblk_run_init(CloudblkDevice *dev);
void cloudblk_run_cleanup(CloudblkDevice *dev);
void cloudblk_reset(VirtIODevice *vdev);
/*
 * Gives every request up, without an answer: those in flight and those that
 * are kept. Returns at once. Completions are dropped from here on.
 */
void cloudblk_revoke(CloudblkDevice *dev);
/*
 * Waits for the requests in flight and flushes, within a bound. NULL: for all
 * devices at once, within the same bound.
 */
void cloudblk_drain(CloudblkDevice *dev);

#endif
