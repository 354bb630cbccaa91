/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qom/object.h"
#include "hw/pci/pci.h"
#include "hw/qdev-properties.h"
#include "hw/virtio/virtio.h"
#include "hw/virtio/virtio-blk.h"
#include "hw/virtio/virtio-pci.h"
#include "hw/virtio/virtio-rng.h"

#include "layout.h"

/*
 * QEMU exports no sizes, but its properties hold the offsets of fields. Each
 * of these comes late in its structure or behind a whole other one.
 */
static const struct {
    const char *type;
    const char *property;
    size_t offset;
} known_fields[] = {
    { TYPE_PCI_DEVICE, "failover_pair_id",
      offsetof(PCIDevice, failover_pair_id) },
    { TYPE_PCI_DEVICE, "acpi-index", offsetof(PCIDevice, acpi_index) },
    { TYPE_VIRTIO_PCI, "x-ignore-backend-features",
      offsetof(VirtIOPCIProxy, ignore_backend_features) },
    { TYPE_VIRTIO_DEVICE, "use-started", offsetof(VirtIODevice, use_started) },
    { TYPE_VIRTIO_DEVICE, "x-disable-legacy-check",
      offsetof(VirtIODevice, disable_legacy_check) },
    { TYPE_VIRTIO_BLK, "drive", offsetof(VirtIOBlock, conf.conf.blk) },
};

/* A transport with a device behind it, as QEMU lays it out. */
typedef struct RngPci {
    VirtIOPCIProxy proxy;
    VirtIORNG device;
} RngPci;

static void check_offset(const char *what, size_t ours, size_t theirs)
{
    if (ours != theirs) {
        fprintf(stderr,
                "cloudblk: this QEMU has the version but not the structures "
                "that this device library was built for (%s at %zu, not %zu); "
                "make one with scripts/build-plugin from this QEMU's own build "
                "folder\n",
                what, theirs, ours);
        exit(1);
    }
}

void cloudblk_check_layout(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(known_fields); i++) {
        ObjectClass *klass = object_class_by_name(known_fields[i].type);
        ObjectProperty *found =
            klass ? object_class_property_find(klass, known_fields[i].property)
                  : NULL;

        if (found && found->opaque) {
            check_offset(known_fields[i].property, known_fields[i].offset,
                         ((Property *)found->opaque)->offset);
        }
    }
    if (object_class_by_name("virtio-rng-pci")) {
        Object *rng = object_new("virtio-rng-pci");
        Object *device = object_resolve_path_component(rng, "virtio-backend");

        check_offset("the device behind virtio-pci", offsetof(RngPci, device),
                     (char *)device - (char *)rng);
        object_unref(rng);
    }
}
