/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CLOUDBLK_PLUGIN_LAYOUT_H
#define CLOUDBLK_PLUGIN_LAYOUT_H

/*
 * Compares the structures that this library was compiled with to those of the
 * running QEMU, whose version says nothing about local patches or configure
 * switches. Needs all of QEMU's types registered. On a difference it says so
 * in one line and exits.
 */
void cloudblk_check_layout(void);

#endif
