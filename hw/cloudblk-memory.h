/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's memory as a loop uses it: which addresses are RAM, and where that
 * is in this process.
 *
 * Mapping a buffer through QEMU's DMA functions looks the address up in the
 * memory map, takes a reference to the region, and does both again to give it
 * back. Here that is done once for all RAM, until the memory map changes.
 */
#ifndef CLOUDBLK_MEMORY_H
#define CLOUDBLK_MEMORY_H

#include "cloudblk-disk.h"

/*
 * Follows the changes of the memory map from now on; until then there is no
 * CloudblkMemory. The device is on its bus. Any number of times. Big QEMU lock.
 */
void cloudblk_memory_watch(CloudblkDisk *disk);
/* Big QEMU lock. Nobody serves the queues. */
void cloudblk_memory_unwatch(CloudblkDisk *disk);

/*
 * The loop's memory as it is now, or NULL. Valid until the RCU read lock is
 * released or, with a reference, until that is given up. On the thread that
 * serves the loop, RCU read lock held.
 */
CloudblkMemory *cloudblk_memory_get(CloudblkLoop *loop);
CloudblkMemory *cloudblk_memory_ref(CloudblkMemory *memory);
void cloudblk_memory_unref(CloudblkMemory *memory);

/*
 * Whether an IOMMU translates the device's addresses: then what is not found
 * here may be memory all the same.
 */
bool cloudblk_memory_is_translated(const CloudblkMemory *memory);

/*
 * Where the bytes from `address` on are. Shortens *length to those that lie
 * together. NULL: not memory, or read-only though it is to be written.
 */
uint8_t *cloudblk_memory_map(CloudblkMemory *memory, hwaddr address,
                             hwaddr *length, bool is_write);

/*
 * Tells QEMU that these bytes, which cloudblk_memory_map() has found in one
 * piece, were written: for migration and for TCG's translated code.
 */
void cloudblk_memory_written(CloudblkMemory *memory, hwaddr address,
                             hwaddr length);

#endif
