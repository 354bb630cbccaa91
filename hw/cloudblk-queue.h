/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A queue's turn: all that it has goes to the engine in one batch. */
#ifndef CLOUDBLK_QUEUE_H
#define CLOUDBLK_QUEUE_H

#include "cloudblk-disk.h"

/* Of a disk that is being realized. The VirtQueue comes later. */
void cloudblk_queue_init(CloudblkQueue *queue, CloudblkLoop *loop);

/*
 * Takes all that the queue has and sends it. On the thread that serves the
 * queue.
 */
void cloudblk_queue_run(CloudblkQueue *queue);

/*
 * Lets the next cloudblk_queue_run() submit what is kept. Nobody else serves
 * the queue.
 */
void cloudblk_queue_retry(CloudblkQueue *queue);
/* Gives back what is kept, without an answer. Nobody serves the queue. */
void cloudblk_queue_forget(CloudblkQueue *queue);

#endif
