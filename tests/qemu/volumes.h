/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What QEMU's test of virtio-blk gets instead of image files: volumes of a proxy. */
#ifndef CLOUDBLK_TEST_VOLUMES_H
#define CLOUDBLK_TEST_VOLUMES_H

/*
 * Before a test: starts a proxy of its own ($CLOUDBLK_PROXY) with the empty volumes drive0, which is the
 * disk of each cloudblk-pci, and drive1, both of TEST_IMAGE_SIZE.
 */
void *cloudblk_test_setup(GString *cmd_line, void *arg);

/* URI of a volume. */
const char *cloudblk_test_uri(const char *volume);

/* Gives the volume another size, be it smaller, with the command line ($CLOUDBLK). */
void cloudblk_test_resize(const char *volume, int64_t size);

#endif
