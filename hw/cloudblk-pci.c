/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PCI form of the device, which drivers see as virtio-blk: cloudblk-pci,
 * -transitional and -non-transitional.
 */
#include "cloudblk-device.h"

#include "hw/pci/pci.h"
#include "hw/virtio/virtio-pci.h"
#include "qemu/module.h"

#define TYPE_CLOUDBLK_PCI "cloudblk-pci-base"
#define TYPE_CLOUDBLK_PCI_GENERIC "cloudblk-pci"

typedef struct CloudblkPCI {
    VirtIOPCIProxy parent_obj;
    CloudblkDevice vdev;
} CloudblkPCI;

DECLARE_INSTANCE_CHECKER(CloudblkPCI, CLOUDBLK_PCI, TYPE_CLOUDBLK_PCI)

static CLOUDBLK_PROPERTIES cloudblk_pci_properties[] = {
    DEFINE_PROP_UINT32("class", VirtIOPCIProxy, class_code, 0),
    DEFINE_PROP_BIT("ioeventfd", VirtIOPCIProxy, flags,
                    VIRTIO_PCI_FLAG_USE_IOEVENTFD_BIT, true),
    DEFINE_PROP_UINT32("vectors", VirtIOPCIProxy, nvectors,
                       DEV_NVECTORS_UNSPECIFIED),
    CLOUDBLK_PROPERTIES_END
};

static const CloudblkPropertyText cloudblk_pci_texts[] = {
    { "class", "PCI class code (0: mass storage)" },
    { "ioeventfd", "take the guest's kicks without stopping its virtual CPU" },
    { "vectors", "MSI-X vectors (default: one per queue and one for "
                 "configuration changes)" },
};

static void cloudblk_pci_realize(VirtIOPCIProxy *proxy, Error **errp)
{
    CloudblkPCI *pci = CLOUDBLK_PCI(proxy);
    CloudblkConf *conf = &pci->vdev.conf;

    if (conf->num_queues == CLOUDBLK_AUTO_NUM_QUEUES) {
        conf->num_queues = virtio_pci_optimal_num_queues(0);
    }
    if (proxy->nvectors == DEV_NVECTORS_UNSPECIFIED) {
        proxy->nvectors = conf->num_queues + 1;
    }
    qdev_realize(DEVICE(&pci->vdev), BUS(&proxy->bus), errp);
}

/* virtio-pci's, which realizes the PCI device and what is in it. */
static DeviceRealize parent_realize;

/*
 * The disk that is plugged takes its volume here, as romfile and
 * failover_pair_id are judged behind the virtio device.
 */
static void cloudblk_pci_realize_all(DeviceState *qdev, Error **errp)
{
    CloudblkPCI *pci = CLOUDBLK_PCI(qdev);
    ERRP_GUARD();

    parent_realize(qdev, errp);
    if (*errp || !qdev->hotplugged || cloudblk_activate(&pci->vdev, errp)) {
        return;
    }
    qdev_unrealize(DEVICE(&pci->vdev));
    DEVICE_GET_CLASS(qdev)->unrealize(qdev);
}

static void cloudblk_pci_class_init(ObjectClass *klass,
                                    CLOUDBLK_CLASS_DATA *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    VirtioPCIClass *k = VIRTIO_PCI_CLASS(klass);
    PCIDeviceClass *pci = PCI_DEVICE_CLASS(klass);

    device_class_set_props(dc, cloudblk_pci_properties);
    cloudblk_set_property_texts(klass, cloudblk_pci_texts,
                                ARRAY_SIZE(cloudblk_pci_texts));
    dc->desc = "block device on a storage server, for virtio-blk drivers";
    set_bit(DEVICE_CATEGORY_STORAGE, dc->categories);
    k->realize = cloudblk_pci_realize;
    device_class_set_parent_realize(dc, cloudblk_pci_realize_all,
                                    &parent_realize);
    pci->vendor_id = PCI_VENDOR_ID_REDHAT_QUMRANET;
    pci->device_id = PCI_DEVICE_ID_VIRTIO_BLOCK;
    pci->revision = VIRTIO_PCI_ABI_VERSION;
    pci->class_id = PCI_CLASS_STORAGE_SCSI;
}

static void cloudblk_pci_instance_init(Object *obj)
{
    /* Those of the virtio device that are no qdev properties */
    static const char *const own[] = { "bootindex", "io-status",
                                       "request-timeout", "server-status" };
    CloudblkPCI *pci = CLOUDBLK_PCI(obj);
    g_autofree char *virtio_type = NULL;
    unsigned i;

    virtio_instance_init_common(obj, &pci->vdev, sizeof(pci->vdev),
                                TYPE_CLOUDBLK_DEVICE);
    for (i = 0; i < ARRAY_SIZE(own); i++) {
        /* Some releases have made aliases of some already */
        if (!object_property_find(obj, own[i])) {
            object_property_add_alias(obj, own[i], OBJECT(&pci->vdev), own[i]);
        }
    }
    /* The suffix, if any, is -transitional or -non-transitional */
    virtio_type = g_strconcat(
        "virtio-blk-pci",
        object_get_typename(obj) + strlen(TYPE_CLOUDBLK_PCI_GENERIC), NULL);
    cloudblk_machine_defaults(obj, virtio_type);
}

static const VirtioPCIDeviceTypeInfo cloudblk_pci_info = {
    .base_name = TYPE_CLOUDBLK_PCI,
    .generic_name = TYPE_CLOUDBLK_PCI_GENERIC,
    .transitional_name = TYPE_CLOUDBLK_PCI_GENERIC "-transitional",
    .non_transitional_name = TYPE_CLOUDBLK_PCI_GENERIC "-non-transitional",
    .instance_size = sizeof(CloudblkPCI),
    .instance_init = cloudblk_pci_instance_init,
    .class_init = cloudblk_pci_class_init,
};

static void cloudblk_pci_register_types(void)
{
    virtio_pci_types_register(&cloudblk_pci_info);
}

type_init(cloudblk_pci_register_types)
