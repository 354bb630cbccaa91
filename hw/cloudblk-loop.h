/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device's loops: AioContext behind the engine's loop operations, and which
 * queue is served by which.
 */
#ifndef CLOUDBLK_LOOP_H
#define CLOUDBLK_LOOP_H

#include "cloudblk-device.h"

/*
 * Makes dev->loops, one per AioContext in use, and dev->queues, from the
 * properties iothread, iothreads and iothread-vq-mapping.
 */
bool cloudblk_loops_init(CloudblkDevice *dev, Error **errp);
void cloudblk_loops_cleanup(CloudblkDevice *dev);

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
 * Shows the guest the used elements of all the loop's queues. RCU read lock
 * held.
 */
void cloudblk_loop_publish(CloudblkLoop *loop);

#endif
