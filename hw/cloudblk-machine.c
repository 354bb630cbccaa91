/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What differs between machine types. An old one keeps to what QEMU's disk was
 * when it was new, or a guest would find other features after a migration.
 *
 * QEMU's list names only its own types, so it is read here for them: that is
 * right for machine types of distributors too, of which a list of ours would
 * know nothing.
 */
#include "cloudblk-device.h"

#include "hw/boards.h"

void cloudblk_machine_defaults(Object *obj, const char *virtio_type)
{
    GPtrArray *list;
    unsigned i;

    /* None yet if QEMU was only asked to list properties */
    if (!current_machine) {
        return;
    }
    list = MACHINE_GET_CLASS(current_machine)->compat_props;
    for (i = 0; list && i < list->len; i++) {
        const GlobalProperty *entry = g_ptr_array_index(list, i);

        if (!strcmp(entry->driver, virtio_type) &&
            object_property_find(obj, entry->property)) {
            object_property_parse(obj, entry->property, entry->value,
                                  &error_abort);
        }
    }
}
