/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The device's loops: AioContext behind the engine's loop operations. */
#ifndef CLOUDBLK_LOOP_H
#define CLOUDBLK_LOOP_H

#include "cloudblk-disk.h"

/* Where the engine's lines go. Any thread. */
void cloudblk_loop_log(CloudblkLogLevel level, const char *message);

/*
 * Of a disk that is being realized: the loop of `iothread`, or, if that is
 * NULL, of the main loop. The channel comes later.
 */
void cloudblk_loop_init(CloudblkLoop *loop, CloudblkDisk *disk,
                        IOThread *iothread);
/* Nothing is in flight. */
void cloudblk_loop_cleanup(CloudblkLoop *loop);

/*
 * Binds the channel to the loop of the calling thread: `context` is the loop's
 * own, or the main loop's. The caller is in that context.
 */
void cloudblk_loop_attach(CloudblkLoop *loop, AioContext *context);
/*
 * Parks the channel. In the context that it is attached to. Harmless if it is
 * parked.
 */
void cloudblk_loop_detach(CloudblkLoop *loop);

/*
 * Sends a flush of the device's own. If it fails, the user is told, unless it
 * was given up. In the context that the channel is attached to.
 */
void cloudblk_loop_flush(CloudblkLoop *loop);

#endif
