/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block sizes, limits, features and the configuration space. */
#include "cloudblk-device.h"

#include "block/block.h"
#include "hw/virtio/virtio-access.h"
#include "standard-headers/linux/virtio_blk.h"

/* A day: whoever wants more does not want it at all. */
#define MAX_SERVER_TIMEOUT 86400

bool cloudblk_config_check(CloudblkDevice *dev, Error **errp)
{
    CloudblkConf *conf = &dev->conf;

    if (!conf->server || !*conf->server) {
        error_setg(errp, "server is not set, give the volume's URI as in "
                         "server=cloudblk://host:port/volume");
        return false;
    }
    if (conf->server_timeout > MAX_SERVER_TIMEOUT) {
        error_setg(errp, "server-timeout must be at most %d seconds",
                   MAX_SERVER_TIMEOUT);
        return false;
    }
    if (conf->num_queues == CLOUDBLK_AUTO_NUM_QUEUES) {
        conf->num_queues = 1;
    }
    if (!conf->num_queues || conf->num_queues > VIRTIO_QUEUE_MAX) {
        error_setg(errp, "num-queues must be between 1 and %d",
                   VIRTIO_QUEUE_MAX);
        return false;
    }
    if (conf->queue_size <= 2 || conf->queue_size > VIRTQUEUE_MAX_SIZE ||
        !is_power_of_2(conf->queue_size)) {
        error_setg(errp, "queue-size must be a power of 2 between 4 and %d",
                   VIRTQUEUE_MAX_SIZE);
        return false;
    }
    if (virtio_has_feature(dev->host_features, VIRTIO_BLK_F_DISCARD) &&
        (!conf->max_discard_sectors ||
         conf->max_discard_sectors > BDRV_REQUEST_MAX_SECTORS)) {
        error_setg(errp, "max-discard-sectors must be between 1 and %d",
                   (int)BDRV_REQUEST_MAX_SECTORS);
        return false;
    }
    if (virtio_has_feature(dev->host_features, VIRTIO_BLK_F_WRITE_ZEROES) &&
        (!conf->max_write_zeroes_sectors ||
         conf->max_write_zeroes_sectors > BDRV_REQUEST_MAX_SECTORS)) {
        error_setg(errp, "max-write-zeroes-sectors must be between 1 and %d",
                   (int)BDRV_REQUEST_MAX_SECTORS);
        return false;
    }
    if ((conf->cyls || conf->heads || conf->secs) &&
        (!conf->cyls || conf->cyls > 65535 || !conf->heads ||
         conf->heads > 255 || !conf->secs || conf->secs > 255)) {
        error_setg(errp, "set cyls (1 to 65535), heads and secs (1 to 255 "
                         "each), or none of them");
        return false;
    }
    return true;
}

/*
 * Block sizes: the volume's where the user left them open, and not finer than
 * the volume's.
 */
static bool init_block_sizes(CloudblkDevice *dev, Error **errp)
{
    CloudblkConf *conf = &dev->conf;
    uint32_t volume_block = MAX(dev->info.logical_block_size, BDRV_SECTOR_SIZE);
    bool as_volume = conf->backend_defaults != ON_OFF_AUTO_OFF;
    uint32_t block;

    if (!conf->logical_block_size) {
        conf->logical_block_size = as_volume ? volume_block : BDRV_SECTOR_SIZE;
    }
    block = conf->logical_block_size;
    if (block < volume_block) {
        error_setg(errp, "logical_block_size must be at least the volume's, %u",
                   volume_block);
        return false;
    }
    if (!conf->physical_block_size) {
        conf->physical_block_size =
            as_volume ? MAX(block, dev->info.physical_block_size) : block;
    }
    if (conf->physical_block_size < block) {
        error_setg(
            errp, "physical_block_size must be at least logical_block_size, %u",
            block);
        return false;
    }
    if (!conf->opt_io_size && as_volume) {
        conf->opt_io_size = QEMU_ALIGN_DOWN(dev->info.optimal_io_size, block);
    }
    if (conf->discard_granularity == -1) {
        conf->discard_granularity =
            as_volume ? MAX(block, dev->info.discard_granularity) : block;
    }
    if (!QEMU_IS_ALIGNED(conf->min_io_size, block) ||
        !QEMU_IS_ALIGNED(conf->opt_io_size, block) ||
        !QEMU_IS_ALIGNED(conf->discard_granularity, block)) {
        error_setg(errp,
                   "min_io_size, opt_io_size and discard_granularity must be "
                   "multiples of "
                   "the logical block size, %u",
                   block);
        return false;
    }
    /* The guest sees it as 16 bits of logical blocks */
    if (conf->min_io_size / block > UINT16_MAX) {
        error_setg(errp, "min_io_size must be at most %u logical blocks",
                   UINT16_MAX);
        return false;
    }
    return true;
}

/* The geometry for boot loaders that still ask: as ATA disks make it up. */
static void init_geometry(CloudblkDevice *dev)
{
    CloudblkConf *conf = &dev->conf;

    if (!conf->cyls && !conf->heads && !conf->secs) {
        uint64_t cylinders =
            (dev->info.size_bytes >> BDRV_SECTOR_BITS) / (16 * 63);

        conf->cyls = MIN(MAX(cylinders, 2), 16383);
        conf->heads = 16;
        conf->secs = 63;
    }
}

/* What the volume cannot do is not offered. */
static void init_discard(CloudblkDevice *dev)
{
    CloudblkConf *conf = &dev->conf;
    uint64_t max_discard = dev->info.max_discard_bytes >> BDRV_SECTOR_BITS;
    uint64_t max_write_zeroes =
        dev->info.max_write_zeroes_bytes >> BDRV_SECTOR_BITS;

    conf->max_discard_sectors = MIN(conf->max_discard_sectors, max_discard);
    if (!conf->max_discard_sectors) {
        virtio_clear_feature(&dev->host_features, VIRTIO_BLK_F_DISCARD);
    }
    conf->max_write_zeroes_sectors =
        MIN(conf->max_write_zeroes_sectors, max_write_zeroes);
    if (!conf->max_write_zeroes_sectors) {
        virtio_clear_feature(&dev->host_features, VIRTIO_BLK_F_WRITE_ZEROES);
    }
}

/* What the data path needs of all this. */
static void init_disk(CloudblkDevice *dev)
{
    CloudblkConf *conf = &dev->conf;
    CloudblkDisk *disk = &dev->disk;

    dev->default_write_cache = conf->write_cache == ON_OFF_AUTO_AUTO
                                   ? dev->info.write_cache
                                   : conf->write_cache == ON_OFF_AUTO_ON;
    disk->server = conf->server;
    disk->serial = conf->serial;
    disk->queue_size = conf->queue_size;
    disk->logical_block_size = conf->logical_block_size;
    disk->max_ranges = MIN(MAX(dev->info.max_ranges, 1), CLOUDBLK_MAX_RANGES);
    disk->max_discard_sectors = conf->max_discard_sectors;
    disk->max_write_zeroes_sectors = conf->max_write_zeroes_sectors;
    disk->read_only = conf->read_only || dev->info.read_only;
    disk->volume_has_cache = dev->info.write_cache;
    disk->capacity = dev->info.size_bytes;
    disk->write_cache = dev->default_write_cache;
}

bool cloudblk_config_init(CloudblkDevice *dev, Error **errp)
{
    static const VirtIOFeature sizes[] = {
        { .flags = 1ULL << VIRTIO_BLK_F_DISCARD,
          .end = endof(struct virtio_blk_config, discard_sector_alignment) },
        { .flags = 1ULL << VIRTIO_BLK_F_WRITE_ZEROES,
          .end = endof(struct virtio_blk_config, write_zeroes_may_unmap) },
        {}
    };
    static const VirtIOConfigSizeParams params = {
        .min_size = offsetof(struct virtio_blk_config, max_discard_sectors),
        .max_size = endof(struct virtio_blk_config, write_zeroes_may_unmap),
        .feature_sizes = sizes,
    };

    if (!init_block_sizes(dev, errp)) {
        return false;
    }
    init_geometry(dev);
    init_discard(dev);
    init_disk(dev);
    dev->config_size = virtio_get_config_size(&params, dev->host_features);
    return true;
}

/*
 * The geometry's sectors per track, such that a track holds whole blocks if the
 * disk does not.
 */
static uint8_t config_sectors(CloudblkDevice *dev, uint64_t capacity)
{
    CloudblkConf *conf = &dev->conf;
    uint32_t block_sectors = conf->logical_block_size >> BDRV_SECTOR_BITS;

    if (capacity / conf->heads / conf->secs % conf->logical_block_size) {
        return conf->secs & ~(block_sectors - 1);
    }
    return conf->secs;
}

static void config_discard(CloudblkDevice *dev,
                           struct virtio_blk_config *config)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    CloudblkConf *conf = &dev->conf;

    if (virtio_has_feature(dev->host_features, VIRTIO_BLK_F_DISCARD)) {
        uint32_t granularity = conf->report_discard_granularity
                                   ? conf->discard_granularity
                                   : conf->logical_block_size;

        virtio_stl_p(vdev, &config->max_discard_sectors,
                     conf->max_discard_sectors);
        virtio_stl_p(vdev, &config->max_discard_seg, dev->disk.max_ranges);
        virtio_stl_p(vdev, &config->discard_sector_alignment,
                     granularity >> BDRV_SECTOR_BITS);
    }
    if (virtio_has_feature(dev->host_features, VIRTIO_BLK_F_WRITE_ZEROES)) {
        virtio_stl_p(vdev, &config->max_write_zeroes_sectors,
                     conf->max_write_zeroes_sectors);
        virtio_stl_p(vdev, &config->max_write_zeroes_seg, dev->disk.max_ranges);
        config->write_zeroes_may_unmap = 1;
    }
}

void cloudblk_get_config(VirtIODevice *vdev, uint8_t *config)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);
    CloudblkConf *conf = &dev->conf;
    uint64_t capacity = qatomic_read(&dev->disk.capacity);
    uint32_t block = conf->logical_block_size;
    struct virtio_blk_config filled = {};

    virtio_stq_p(vdev, &filled.capacity, capacity >> BDRV_SECTOR_BITS);
    /* Header and status take two descriptors */
    virtio_stl_p(vdev, &filled.seg_max,
                 (conf->seg_max_adjust ? conf->queue_size : 128) - 2);
    virtio_stw_p(vdev, &filled.geometry.cylinders, conf->cyls);
    filled.geometry.heads = conf->heads;
    filled.geometry.sectors = config_sectors(dev, capacity);
    virtio_stl_p(vdev, &filled.blk_size, block);
    filled.physical_block_exp = ctz32(conf->physical_block_size) - ctz32(block);
    virtio_stw_p(vdev, &filled.min_io_size, conf->min_io_size / block);
    virtio_stl_p(vdev, &filled.opt_io_size, conf->opt_io_size / block);
    filled.wce = qatomic_read(&dev->disk.write_cache);
    virtio_stw_p(vdev, &filled.num_queues, conf->num_queues);
    config_discard(dev, &filled);
    memcpy(config, &filled, dev->config_size);
}

bool cloudblk_config_is_stale(CloudblkDevice *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    /* Filled at each read of the guest's, and carried over by a migration */
    struct virtio_blk_config *seen = vdev->config;
    uint64_t capacity = qatomic_read(&dev->disk.capacity) >> BDRV_SECTOR_BITS;

    return virtio_ldq_p(vdev, &seen->capacity) != capacity;
}

void cloudblk_set_config(VirtIODevice *vdev, const uint8_t *config)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);

    if (virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_CONFIG_WCE)) {
        qatomic_set(&dev->disk.write_cache,
                    config[offsetof(struct virtio_blk_config, wce)] != 0);
    }
}

uint64_t cloudblk_get_features(VirtIODevice *vdev, uint64_t features,
                               Error **errp)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);

    features |= dev->host_features;
    virtio_add_feature(&features, VIRTIO_BLK_F_SEG_MAX);
    virtio_add_feature(&features, VIRTIO_BLK_F_GEOMETRY);
    virtio_add_feature(&features, VIRTIO_BLK_F_TOPOLOGY);
    virtio_add_feature(&features, VIRTIO_BLK_F_BLK_SIZE);
    if (!virtio_has_feature(features, VIRTIO_F_VERSION_1)) {
        /* As QEMU's own disk does, so that a guest finds the same features */
        virtio_clear_feature(&features, VIRTIO_F_ANY_LAYOUT);
        virtio_add_feature(&features, VIRTIO_BLK_F_SCSI);
    }
    /* A driver that can turn the cache on has to know how to flush it */
    if (dev->default_write_cache ||
        (dev->conf.wce_if_config_wce &&
         virtio_has_feature(features, VIRTIO_BLK_F_CONFIG_WCE))) {
        virtio_add_feature(&features, VIRTIO_BLK_F_WCE);
    }
    if (dev->disk.read_only) {
        virtio_add_feature(&features, VIRTIO_BLK_F_RO);
    }
    if (dev->conf.num_queues > 1) {
        virtio_add_feature(&features, VIRTIO_BLK_F_MQ);
    }
    /* A channel serves several queues and can only be revoked as a whole */
    virtio_clear_feature(&features, VIRTIO_F_RING_RESET);
    /*
     * A reset gives up what is in flight, and QEMU does not forget then what
     * waits to be shown in order: it would show it in the queue's next life.
     * Nor does it migrate that order
     */
    virtio_clear_feature(&features, VIRTIO_F_IN_ORDER);
    return features;
}

CLOUDBLK_SET_STATUS_RESULT cloudblk_set_status(VirtIODevice *vdev,
                                               uint8_t status)
{
    CloudblkDevice *dev = CLOUDBLK_DEVICE(vdev);

    /*
     * A driver that does not know of flushes gets a disk that needs none. One
     * that can switch the cache knows of them, and may have switched it
     * already.
     */
    if ((status & VIRTIO_CONFIG_S_DRIVER_OK) &&
        !virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_CONFIG_WCE)) {
        qatomic_set(&dev->disk.write_cache,
                    virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_WCE));
    }
    return CLOUDBLK_SET_STATUS_OK;
}
