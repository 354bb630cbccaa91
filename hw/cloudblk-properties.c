/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The properties that a user sets, and what QEMU's help says of them. */
#include "cloudblk-device.h"

#include "block/block.h"
#include "standard-headers/linux/virtio_blk.h"

/*
 * Names, types and defaults are those of virtio-blk-pci, but for the first
 * block.
 */
static CLOUDBLK_PROPERTIES cloudblk_properties[] = {
    DEFINE_PROP_STRING("server", CloudblkDevice, conf.server),
    DEFINE_PROP_STRING("iothreads", CloudblkDevice, conf.iothreads),
    DEFINE_PROP_STRING("tls-creds", CloudblkDevice, conf.tls_creds),
    DEFINE_PROP_STRING("tls-hostname", CloudblkDevice, conf.tls_hostname),
    DEFINE_PROP_UINT32("open-timeout", CloudblkDevice, conf.open_timeout_ms,
                       30000),
    DEFINE_PROP_UINT32("server-timeout", CloudblkDevice, conf.server_timeout,
                       8),
    DEFINE_PROP_BOOL("takeover", CloudblkDevice, conf.takeover, false),
    DEFINE_PROP_BOOL("payload-crc", CloudblkDevice, conf.payload_crc, false),
    DEFINE_PROP_BOOL("read-only", CloudblkDevice, conf.read_only, false),

    DEFINE_PROP_BLOCKSIZE("logical_block_size", CloudblkDevice,
                          conf.logical_block_size),
    DEFINE_PROP_BLOCKSIZE("physical_block_size", CloudblkDevice,
                          conf.physical_block_size),
    DEFINE_PROP_SIZE32("min_io_size", CloudblkDevice, conf.min_io_size, 0),
    DEFINE_PROP_SIZE32("opt_io_size", CloudblkDevice, conf.opt_io_size, 0),
    DEFINE_PROP_SIZE32("discard_granularity", CloudblkDevice,
                       conf.discard_granularity, -1),
    DEFINE_PROP_ON_OFF_AUTO("write-cache", CloudblkDevice, conf.write_cache,
                            ON_OFF_AUTO_AUTO),
    DEFINE_PROP_ON_OFF_AUTO("backend_defaults", CloudblkDevice,
                            conf.backend_defaults, ON_OFF_AUTO_AUTO),
    DEFINE_PROP_BLOCKDEV_ON_ERROR("rerror", CloudblkDevice, conf.rerror,
                                  BLOCKDEV_ON_ERROR_AUTO),
    DEFINE_PROP_BLOCKDEV_ON_ERROR("werror", CloudblkDevice, conf.werror,
                                  BLOCKDEV_ON_ERROR_AUTO),
    DEFINE_PROP_BOOL("x-enable-wce-if-config-wce", CloudblkDevice,
                     conf.wce_if_config_wce, true),
    DEFINE_PROP_BOOL("share-rw", CloudblkDevice, conf.share_rw, false),
    DEFINE_PROP_UINT32("cyls", CloudblkDevice, conf.cyls, 0),
    DEFINE_PROP_UINT32("heads", CloudblkDevice, conf.heads, 0),
    DEFINE_PROP_UINT32("secs", CloudblkDevice, conf.secs, 0),
    DEFINE_PROP_UINT32("lcyls", CloudblkDevice, conf.lcyls, 0),
    DEFINE_PROP_UINT32("lheads", CloudblkDevice, conf.lheads, 0),
    DEFINE_PROP_UINT32("lsecs", CloudblkDevice, conf.lsecs, 0),
    DEFINE_PROP_STRING("serial", CloudblkDevice, conf.serial),
    DEFINE_PROP_BIT64("config-wce", CloudblkDevice, host_features,
                      VIRTIO_BLK_F_CONFIG_WCE, true),
    DEFINE_PROP_UINT16("num-queues", CloudblkDevice, conf.num_queues,
                       CLOUDBLK_AUTO_NUM_QUEUES),
    DEFINE_PROP_UINT16("queue-size", CloudblkDevice, conf.queue_size, 256),
    DEFINE_PROP_BOOL("seg-max-adjust", CloudblkDevice, conf.seg_max_adjust,
                     true),
    DEFINE_PROP_LINK("iothread", CloudblkDevice, conf.iothread, TYPE_IOTHREAD,
                     IOThread *),
    CLOUDBLK_PROP_VQ_MAPPING(CloudblkDevice, conf.iothread_vq_mapping)
    DEFINE_PROP_BIT64("discard", CloudblkDevice, host_features,
                      VIRTIO_BLK_F_DISCARD, true),
    DEFINE_PROP_BOOL("report-discard-granularity", CloudblkDevice,
                     conf.report_discard_granularity, true),
    DEFINE_PROP_BIT64("write-zeroes", CloudblkDevice, host_features,
                      VIRTIO_BLK_F_WRITE_ZEROES, true),
    DEFINE_PROP_UINT32("max-discard-sectors", CloudblkDevice,
                       conf.max_discard_sectors, BDRV_REQUEST_MAX_SECTORS),
    DEFINE_PROP_UINT32("max-write-zeroes-sectors", CloudblkDevice,
                       conf.max_write_zeroes_sectors, BDRV_REQUEST_MAX_SECTORS),
    CLOUDBLK_PROPERTIES_END
};

static const CloudblkPropertyText cloudblk_texts[] = {
    { "server",
      "URI of the volume: cloudblk://host[:port]/volume or "
      "cloudblk+unix:///volume?socket=PATH" },
    { "tls-creds", "ID of a tls-creds-x509 or tls-creds-psk object, for a server "
                   "URI with TLS (cloudblks://, nbds://)" },
    { "tls-hostname",
      "name in the server's certificate (default: the server URI's host)" },
    { "iothreads", "IOThreads that serve the queues in turn, as in io0:io1" },
    { "open-timeout",
      "milliseconds that opening the volume may take (0: 30000)" },
    { "request-timeout",
      "seconds without an answer until a request fails as rerror or werror "
      "say (0: wait for ever); may be set at any time" },
    { "server-timeout",
      "seconds that a server may be silent before it is left (0: 8)" },
    { "takeover", "fence the volume's present holder and take its place" },
    { "payload-crc", "checksum the data on the wire, not only the headers" },
    { "read-only", "refuse writes" },
    { "logical_block_size",
      "smallest unit of requests in bytes (0: the volume's)" },
    { "physical_block_size",
      "smallest unit without read-modify-write in bytes (0: the volume's)" },
    { "min_io_size", "preferred granularity of requests in bytes" },
    { "opt_io_size",
      "preferred size of large requests in bytes (0: the volume's)" },
    { "discard_granularity",
      "alignment of discards in bytes (4294967295: the volume's)" },
    { "write-cache",
      "whether completed writes may wait for a flush (auto: as the volume's)" },
    { "backend_defaults",
      "whether what is left open follows the volume (auto: on)" },
    { "rerror", "what a failed read does: report, ignore, stop, or enospc "
                "(auto: report)" },
    { "werror", "what other failed requests do: report, ignore, stop, or "
                "enospc, which stops when space is short (auto: enospc)" },
    { "x-enable-wce-if-config-wce",
      "offer flushes to every driver that could switch the write cache on" },
    { "io-status", "why requests wait for the VM to continue" },
    { "server-status", "whether the disk has its server, or why not" },
    { "share-rw",
      "let others that set it too write to the volume beside this one" },
    { "cyls", "cylinders of the geometry (0: made up from the size)" },
    { "heads", "heads of the geometry" },
    { "secs", "sectors per track of the geometry" },
    { "lcyls", "cylinders of the geometry told to the firmware" },
    { "lheads", "heads of the geometry told to the firmware" },
    { "lsecs", "sectors per track of the geometry told to the firmware" },
    { "serial", "serial number, at most 20 characters" },
    { "config-wce", "let the guest switch the write cache" },
    { "num-queues", "request queues (65535: one per virtual CPU)" },
    { "queue-size", "entries of a queue, a power of 2" },
    { "seg-max-adjust",
      "offer as many segments per request as a queue has room for" },
    { "iothread", "IOThread that serves all queues" },
    { "iothread-vq-mapping", "IOThreads and the queues that each serves" },
    { "discard", "offer discard, if the volume can" },
    { "report-discard-granularity", "report discard_granularity to the guest" },
    { "write-zeroes", "offer write-zeroes, if the volume can" },
    { "max-discard-sectors", "longest range of a discard in sectors" },
    { "max-write-zeroes-sectors",
      "longest range of a write-zeroes in sectors" },
};

void cloudblk_set_property_texts(ObjectClass *klass,
                                 const CloudblkPropertyText *texts,
                                 size_t count)
{
    size_t i;

    for (i = 0; i < count; i++) {
        /* Not every release has every property */
        if (object_class_property_find(klass, texts[i].name)) {
            object_class_property_set_description(klass, texts[i].name,
                                                  texts[i].text);
        }
    }
}

void cloudblk_properties_class_init(ObjectClass *klass)
{
    device_class_set_props(DEVICE_CLASS(klass), cloudblk_properties);
    cloudblk_set_property_texts(klass, cloudblk_texts,
                                ARRAY_SIZE(cloudblk_texts));
}
