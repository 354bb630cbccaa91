# SPDX-License-Identifier: GPL-2.0-or-later
# The device's own sources, compiled for each QEMU release.
list(APPEND CLOUDBLK_DEVICE_SOURCES
  cloudblk-complete.c
  cloudblk-config.c
  cloudblk-device.c
  cloudblk-error.c
  cloudblk-ioeventfd.c
  cloudblk-iothreads.c
  cloudblk-loop.c
  cloudblk-machine.c
  cloudblk-memory.c
  cloudblk-migration.c
  cloudblk-pci.c
  cloudblk-properties.c
  cloudblk-queue.c
  cloudblk-request.c
  cloudblk-ring.c
  cloudblk-run.c
  cloudblk-tls.c)
