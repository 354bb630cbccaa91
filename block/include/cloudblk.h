/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cloudblk: the engine's C interface, and all of it that a host program (QEMU's device) sees.
 *
 * A *session* is one opened volume. It has 1..n *channels*, each a connection to the server that
 * belongs to exactly one loop of the host and takes no lock. Unless said otherwise a session's
 * functions are called on the thread that opened it and a channel's on the thread of the loop it is
 * attached to. Functions return 0 or a negative errno. No thread is started, but for
 * one that looks the servers' names up again when none of them answers any more: it ends by itself,
 * maybe after cloudblk_session_close(), so do not unload this library.
 */
#ifndef CLOUDBLK_H
#define CLOUDBLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
#define CLOUDBLK_NOEXCEPT noexcept
extern "C" {
#else
#define CLOUDBLK_NOEXCEPT
#endif

#define CLOUDBLK_ABI_VERSION 1

typedef struct CloudblkSession CloudblkSession;
typedef struct CloudblkChannel CloudblkChannel;

/* ---- What the host program lends ----------------------------------------------------------- */

typedef enum CloudblkLogLevel {
    CLOUDBLK_LOG_DEBUG,
    CLOUDBLK_LOG_INFO,
    CLOUDBLK_LOG_WARNING,
    CLOUDBLK_LOG_ERROR,
} CloudblkLogLevel;

typedef void CloudblkHandler(void *opaque);
/* Whether there is something to do, without waiting: the loop may ask it while it busy-polls. It may
   have begun to do it: a loop that was told so calls poll_ready soon. */
typedef bool CloudblkPoll(void *opaque);

/*
 * One loop's operations. `loop` is the value given to cloudblk_channel_attach(). All are called on
 * the loop's thread, but `log` from any.
 *
 * watch_fd: from now on call `read`/`write` with `opaque` when fd is readable/writable (level
 *     triggered); NULL stops that direction, both NULL forgets the fd. `poll`, where not NULL, says
 *     cheaply whether `read` has something to do, and poll_ready is then called instead of `read`.
 * defer: call `fn` once, soon, on this loop, not from inside this call. It cannot be cancelled.
 * timer_new/timer_arm/timer_free: a one-shot timer; arm with an absolute time of now_ns, or with
 *     a negative value to disarm.
 * now_ns: monotonic clock, nanoseconds.
 * log: one line without a line feed.
 */
typedef struct CloudblkLoopOps {
    uint32_t size; /* sizeof(CloudblkLoopOps) */
    uint32_t abi_version;
    void (*watch_fd)(void *loop, int fd, CloudblkHandler *read, CloudblkHandler *write,
                     CloudblkPoll *poll, CloudblkHandler *poll_ready, void *opaque);
    void (*defer)(void *loop, CloudblkHandler *fn, void *opaque);
    void *(*timer_new)(void *loop, CloudblkHandler *fn, void *opaque);
    void (*timer_arm)(void *timer, int64_t deadline_ns);
    void (*timer_free)(void *timer);
    int64_t (*now_ns)(void *loop);
    void (*log)(CloudblkLogLevel level, const char *message);
} CloudblkLoopOps;

/* ---- Sessions ------------------------------------------------------------------------------ */

typedef enum CloudblkEventKind {
    CLOUDBLK_EVENT_RESIZED = 1,  /* value: new size in bytes */
    CLOUDBLK_EVENT_LOST,         /* a channel lost its server and reconnects; text: why */
    CLOUDBLK_EVENT_RESTORED,     /* every channel is connected again */
    CLOUDBLK_EVENT_REVOKED,      /* the volume was taken over or is gone for good; text: why.
                                    Every request fails with -EIO from here on, until a reopen.
                                    value 1: another client may have continued the session */
} CloudblkEventKind;

/* Called on the loop of the channel that learned of it. */
typedef void CloudblkEventFn(void *opaque, CloudblkEventKind kind, uint64_t value,
                             const char *text);

/*
 * Credentials for TLS, in files that are named and laid out as QEMU's
 * tls-creds-x509 and tls-creds-psk have them. Strings may be NULL, but for dir.
 */
typedef struct CloudblkTls {
    bool psk;             /* keys.psk; else certificates */
    bool verify_peer;     /* certificates: that of the server has to be good */
    const char *dir;      /* where the files are */
    const char *username; /* PSK: whose key; NULL: "qemu" */
    const char *priority; /* as GnuTLS has it; NULL: AES first. Always TLS 1.3 */
    const char *hostname; /* the name in the server's certificate; NULL: the URI's host */
} CloudblkTls;

typedef struct CloudblkOptions {
    uint32_t size;              /* sizeof(CloudblkOptions) */
    uint32_t abi_version;
    const char *server;         /* URI, for example cloudblk://host:port/volume */
    const char *client_name;    /* shown to whoever is refused because of us; NULL: host and pid */
    uint32_t channels;          /* connections, >= 1 */
    bool observe;               /* geometry only */
    bool read_only;
    bool share_rw;              /* let others that say so too write beside us */
    bool takeover;              /* fence the present holder and take its place */
    bool end_reservation;       /* end a saved machine's reservation; -EINVAL if there is none */
    bool payload_crc;           /* CRC32C over data too */
    uint32_t open_timeout_ms;   /* how long open may take, once names are looked up; 0: 30000 */
    uint32_t answer_timeout_ms; /* a server silent so long while requests wait is left; 0: 8000 */
    CloudblkEventFn *event;     /* may be NULL */
    void *event_opaque;
    /* One line without a line feed, that says what opening waits for; may be NULL. */
    void (*log)(CloudblkLogLevel level, const char *message);
    /* For a URI that asks for TLS, and for such a one only; NULL: there are none. */
    const CloudblkTls *tls;
} CloudblkOptions;

/* What the volume is. Constant after open, but for size_bytes (CLOUDBLK_EVENT_RESIZED). */
typedef struct CloudblkInfo {
    uint32_t size;                   /* in: sizeof(CloudblkInfo) */
    uint32_t logical_block_size;     /* bytes */
    uint64_t size_bytes;
    uint32_t physical_block_size;    /* bytes */
    uint32_t optimal_io_size;        /* bytes, 0 unknown */
    uint32_t discard_granularity;    /* bytes */
    uint32_t max_ranges;             /* ranges of one DISCARD or WRITE_ZEROES */
    uint64_t max_discard_bytes;      /* of one range; 0: no DISCARD */
    uint64_t max_write_zeroes_bytes; /* of one range; 0: no WRITE_ZEROES */
    bool read_only;
    bool write_cache;                /* a FLUSH is needed for durability */
    bool rotational;
    bool lost; /* as of CLOUDBLK_EVENT_REVOKED. Not constant */
    uint8_t volume_uuid[16];
    uint8_t session_uuid[16];
    uint64_t generation;
    uint64_t epoch;
    /* What the server promises. */
    bool flush;            /* that what a FLUSH covers is durable */
    bool several_channels; /* that connections see each other's writes */
    bool fences;           /* that nothing of a lost connection lands once the next one is open */
    bool tells_losses;     /* to say when writes that were not flushed may be lost */
    bool moves;            /* to hand the volume over from one client to another, and to one only */
    char protocol[16];     /* its name */
    bool block_status;     /* to tell where the volume has data: CLOUDBLK_OP_BLOCK_STATUS */
} CloudblkInfo;

/*
 * Opens the volume with all its channels. Blocks until the servers' names are looked up and then at
 * most open_timeout_ms, on a private epoll instance of this thread. On success *session is to be
 * closed by cloudblk_session_close().
 * On failure: -errno, *session untouched, and one line without line feed in error[0..error_size)
 * that says what was wrong and what to do.
 * -EINVAL bad URI or options, -ENOENT no such volume, -EBUSY held by somebody else,
 * -ETIMEDOUT/-ECONNREFUSED/... no server, -EPROTO not a server of ours, -EROFS, -ENOTSUP.
 */
int cloudblk_session_open(const CloudblkOptions *options, CloudblkSession **session, char *error,
                          size_t error_size) CLOUDBLK_NOEXCEPT;

/* Fills *info. Any thread. */
void cloudblk_session_info(CloudblkSession *session, CloudblkInfo *info) CLOUDBLK_NOEXCEPT;

/*
 * Whether the session has its server: "connected", "away for ... s: ..." with the reason, or "lost".
 * One line into text[0..size). Any thread, at any time until close.
 */
void cloudblk_session_status(CloudblkSession *session, char *text, size_t size) CLOUDBLK_NOEXCEPT;

/*
 * Live migration. The session of the source moves to the destination, which has opened the volume
 * to observe: RELEASE at the source, its identity through the migration stream, ADOPT and CLAIM at
 * the destination. The source takes it back by CLAIM, while the destination has not claimed it.
 */
typedef struct CloudblkIdentity {
    uint32_t size; /* sizeof(CloudblkIdentity) */
    uint8_t session_uuid[16];
    uint8_t volume_uuid[16];
    uint8_t token[16]; /* nil unless released */
    uint64_t epoch;
    uint64_t generation;
    bool unflushed; /* completed writes are not covered by a flush */
    bool lost;      /* the next flush has to fail */
} CloudblkIdentity;

/* What takes `error` below writes one line into it on failure, as cloudblk_session_open() does. */

/*
 * Gives the volume up to whoever presents a new token, which cloudblk_session_export() then has.
 * Blocks at most timeout_ms. On failure the session still has the volume, or finds out by
 * cloudblk_session_claim() whether it has. Every channel must be detached and idle; afterwards,
 * requests are refused until a claim.
 * Any thread, while no other uses the session.
 */
int cloudblk_session_release(CloudblkSession *session, uint32_t timeout_ms, char *error,
                             size_t error_size) CLOUDBLK_NOEXCEPT;

typedef struct CloudblkRelease {
    CloudblkSession *session;
    int result;      /* out: 0 or -errno, as of cloudblk_session_release() */
    char error[512]; /* out: one line if it failed */
} CloudblkRelease;

/* The same for several sessions at once, all within timeout_ms. */
void cloudblk_session_release_all(CloudblkRelease *releases, uint32_t count,
                                  uint32_t timeout_ms) CLOUDBLK_NOEXCEPT;

/* Fills *identity (size is set). */
void cloudblk_session_export(CloudblkSession *session,
                             CloudblkIdentity *identity) CLOUDBLK_NOEXCEPT;

/* Makes a session that observes the one that was released. No more events come until a claim.
   -EINVAL too: identity->size is another version's. */
int cloudblk_session_adopt(CloudblkSession *session, const CloudblkIdentity *identity, char *error,
                           size_t error_size) CLOUDBLK_NOEXCEPT;

/*
 * Makes a released or adopted session active again. Returns at once: requests are accepted, and
 * wait until the server has agreed; if it does not, CLOUDBLK_EVENT_REVOKED. 0 too if the session is
 * active already. Every channel must be attached, to loops of this thread. -ESTALE: a claim was
 * refused before, as another client has continued the session.
 */
int cloudblk_session_claim(CloudblkSession *session, char *error,
                           size_t error_size) CLOUDBLK_NOEXCEPT;

/*
 * Opens a volume that was lost anew, as a session that knows nothing of what was before: for a guest
 * that starts anew. Nobody is fenced for it. Returns at once: requests wait until the server has
 * agreed; if it does not, CLOUDBLK_EVENT_REVOKED. Does nothing to a session that is not lost.
 * Every channel must be attached, to loops of this thread, with nothing in flight.
 */
void cloudblk_session_reopen(CloudblkSession *session) CLOUDBLK_NOEXCEPT;

/* Channel 0 <= index < options.channels. It starts detached: accepts requests only when attached. */
CloudblkChannel *cloudblk_session_channel(CloudblkSession *session,
                                          uint32_t index) CLOUDBLK_NOEXCEPT;

/*
 * Gives the volume another size in bytes, a smaller one only with `force`. An act of whoever
 * administers the volume: the session may observe, and others be active. Waits at most timeout_ms
 * for the server. Every channel must be detached and idle. On failure: -errno and one line, as
 * cloudblk_session_open().
 */
int cloudblk_session_resize(CloudblkSession *session, uint64_t size, bool force,
                            uint32_t timeout_ms, char *error,
                            size_t error_size) CLOUDBLK_NOEXCEPT;

/*
 * Ends the session and frees it. Every channel must be detached and idle (drained or revoked).
 * Tells the server, waiting at most timeout_ms for its answer, so that the volume is free at once;
 * else it is free when the lease expires.
 */
void cloudblk_session_close(CloudblkSession *session, uint32_t timeout_ms) CLOUDBLK_NOEXCEPT;

/* ---- Channels ------------------------------------------------------------------------------ */

typedef enum CloudblkOperation {
    CLOUDBLK_OP_READ = 1,
    CLOUDBLK_OP_WRITE,
    CLOUDBLK_OP_FLUSH,
    CLOUDBLK_OP_DISCARD,
    CLOUDBLK_OP_WRITE_ZEROES,
    CLOUDBLK_OP_BLOCK_STATUS,
} CloudblkOperation;

#define CLOUDBLK_REQUEST_FUA 1u  /* durable when it completes: WRITE, WRITE_ZEROES */
#define CLOUDBLK_REQUEST_MORE 2u /* a kick follows in this loop turn: wait for it */
#define CLOUDBLK_REQUEST_OWN 4u  /* FLUSH: the host's own, not the guest's. It does not fail where
                                    writes were lost: that is told by the guest's next one */
#define CLOUDBLK_REQUEST_AGAIN 8u /* FLUSH: one that was given up, here or by the session's source,
                                     comes again: it fails for what was lost since then, too */
#define CLOUDBLK_RANGE_UNMAP 1u  /* WRITE_ZEROES may deallocate */

typedef struct CloudblkRange {
    uint64_t offset; /* bytes */
    uint64_t length; /* bytes */
    uint32_t flags;  /* CLOUDBLK_RANGE_... */
} CloudblkRange;

#define CLOUDBLK_EXTENT_HOLE 1u /* the storage has nothing allocated there */
#define CLOUDBLK_EXTENT_ZERO 2u /* all bytes read as zeros */

/* Bytes of a volume that are alike. No flag: data, as far as the server knows. */
typedef struct CloudblkExtent {
    uint64_t length; /* bytes, not 0 */
    uint32_t flags;  /* CLOUDBLK_EXTENT_... */
    uint32_t reserved;
} CloudblkExtent;

/* BLOCK_STATUS: `ranges` is one range, that is asked about, and `iov` one element, which is an array
   of CloudblkExtent. They lie one behind the other from the range's start, and reach as far as the
   server looked: to the end of the range at most. A session that observes may ask, too. */
typedef struct CloudblkRequest {
    CloudblkOperation operation;
    uint32_t flags;          /* CLOUDBLK_REQUEST_... */
    uint64_t offset;         /* bytes; READ, WRITE */
    const struct iovec *iov; /* READ, WRITE: data in host memory; its total is the length */
    uint32_t iov_count;
    uint32_t range_count; /* DISCARD, WRITE_ZEROES; BLOCK_STATUS: 1 */
    const CloudblkRange *ranges;
    void *opaque; /* comes back in the completion */
} CloudblkRequest;

typedef struct CloudblkCompletion {
    void *opaque;
    int result;            /* 0 or -errno; -EFAULT: memory of the request
                              cannot be touched */
    uint64_t bytes_stored; /* READ: how much of the buffers, from their start, may have been
                              written, whatever `result` says. BLOCK_STATUS with result 0: of the
                              array: extents, at least one, times sizeof(CloudblkExtent) */
} CloudblkCompletion;

/* A batch of completions, count >= 1, on the channel's loop, never from inside submit. It may call
   submit. The array is the engine's and valid during the call only. */
typedef void CloudblkCompleteFn(void *opaque, const CloudblkCompletion *done, uint32_t count);

/*
 * Binds the channel to a loop: from now on its functions are called on that loop's thread, and
 * `complete` runs there. `ops` must stay valid until detach. -EINVAL: another ABI version, no
 * `complete`, or attached already.
 * Detach: stops watching; requests in flight stay recorded and go on after the next attach, which
 * may be to another loop. Nothing touches guest memory while detached (this is *park*).
 */
int cloudblk_channel_attach(CloudblkChannel *channel, const CloudblkLoopOps *ops, void *loop,
                            CloudblkCompleteFn *complete, void *opaque) CLOUDBLK_NOEXCEPT;
void cloudblk_channel_detach(CloudblkChannel *channel) CLOUDBLK_NOEXCEPT;

/*
 * Queues a request. 0: accepted, its completion runs exactly once, also across reconnects. Else
 * nothing was kept and no completion will run: -EINVAL (alignment, lengths, out of range of the
 * volume, flags, detached, closed), -ENOTSUP (also where the session observes; of BLOCK_STATUS as a
 * result too, where the volume has moved to a server that cannot tell), -EROFS, -EIO
 * (revoked).
 * iov and ranges are copied, the memory iov points to is borrowed until the completion.
 * Any number may be in flight; what exceeds the server's credits waits in the channel.
 */
int cloudblk_channel_submit(CloudblkChannel *channel,
                            const CloudblkRequest *request) CLOUDBLK_NOEXCEPT;

/* The batch is complete: send what was submitted. Without it that happens at the end of the loop
   turn, which costs a `defer` that CLOUDBLK_REQUEST_MORE spares, and for what is submitted from
   inside a completion callback when that has returned. */
void cloudblk_channel_kick(CloudblkChannel *channel) CLOUDBLK_NOEXCEPT;

/* Requests accepted and not completed. Any thread. */
uint32_t cloudblk_channel_in_flight(CloudblkChannel *channel) CLOUDBLK_NOEXCEPT;

/*
 * Gives up every request in flight: each completes with -ECANCELED before this returns (on this
 * thread: the loop's, or the session's while detached), and no memory of theirs is touched again.
 * Returns at once whatever the server does. Abandoned writes are fenced before any later request of
 * the channel reaches the server; later requests may be submitted at once and wait for that.
 */
void cloudblk_channel_revoke(CloudblkChannel *channel) CLOUDBLK_NOEXCEPT;

/*
 * From now on a request fails with -ETIMEDOUT that has no answer after so many seconds, or up to a
 * tenth longer, and is given up as by cloudblk_channel_revoke(). 0, as at first: requests wait for
 * their server however long it takes. Those in flight count from the call.
 */
void cloudblk_channel_set_request_timeout(CloudblkChannel *channel,
                                          uint32_t seconds) CLOUDBLK_NOEXCEPT;

typedef struct CloudblkStats {
    uint32_t size;     /* in: sizeof(CloudblkStats) */
    uint32_t reserved;
    uint64_t requests; /* completed */
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint64_t frames_sent;
    uint64_t frames_received;
    uint64_t send_calls;
    uint64_t receive_calls;
    uint64_t reconnects;
} CloudblkStats;

/* Counters since open. On the loop's thread. */
void cloudblk_channel_stats(CloudblkChannel *channel, CloudblkStats *stats) CLOUDBLK_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif /* CLOUDBLK_H */
