/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PCI form of the device: cloudblk-pci, -transitional and
 * -non-transitional.
 */
#ifndef CLOUDBLK_PCI_H
#define CLOUDBLK_PCI_H

#include "cloudblk-device.h"

typedef struct CloudblkPropertyText {
    const char *name;
    const char *text;
} CloudblkPropertyText;

/* Describes those of the class's properties that exist in this release. */
void cloudblk_set_property_texts(ObjectClass *klass,
                                 const CloudblkPropertyText *texts,
                                 size_t count);

/* Once. */
void cloudblk_pci_register_types(void);

#endif
