/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of requests: answers, which go back into the ring, and requests that
 * get none or have to wait for it.
 */
#ifndef CLOUDBLK_COMPLETE_H
#define CLOUDBLK_COMPLETE_H

#include "cloudblk-disk.h"

/*
 * All on the thread that serves the queue or loop. The first three want the RCU
 * read lock held.
 */

/*
 * Answers the request with 0 or -errno and frees it. The guest sees that after
 * cloudblk_publish(). If the storage failed it (-errno), werror or rerror may
 * want it kept instead.
 */
void cloudblk_answer(CloudblkReq *req, int result);
/*
 * Gives the buffers back without an answer and frees the request: `stored`
 * bytes of them may have been written.
 */
void cloudblk_drop(CloudblkReq *req, size_t stored);
/* Shows the guest the used elements of all the loop's queues. */
void cloudblk_publish(CloudblkLoop *loop);

/*
 * The engine's completions of a loop (`opaque`). disk->disposition says what
 * becomes of them. One without a request is of cloudblk_loop_flush().
 */
void cloudblk_complete(void *opaque, const CloudblkCompletion *done,
                       uint32_t count);

#endif
