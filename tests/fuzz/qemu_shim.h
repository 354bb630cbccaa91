/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * As much of QEMU as the device's data path needs, for virtio_fuzz.cc, which has the functions: the
 * names, types and duties of QEMU's headers, and nothing behind them. It is included before each
 * file of hw/ in place of hw/qemu-compat.h and of what that includes.
 */
#ifndef CLOUDBLK_TESTS_FUZZ_QEMU_SHIM_H_
#define CLOUDBLK_TESTS_FUZZ_QEMU_SHIM_H_
#define CLOUDBLK_QEMU_COMPAT_H

#include <assert.h>
#include <glib.h>
#include <limits.h>
#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/uio.h>
#ifndef __cplusplus
#include <linux/virtio_ring.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* qemu/osdep.h, qemu/atomic.h, qemu/queue.h, qemu/int128.h */
#define likely(x) __builtin_expect(!!(x), 1)
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define barrier() __asm__ volatile("" ::: "memory")
#define smp_rmb() barrier()
#define qatomic_read(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define qatomic_set(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define qatomic_inc(p) ((void)__atomic_fetch_add(p, 1, __ATOMIC_SEQ_CST))
#define qatomic_fetch_dec(p) __atomic_fetch_sub(p, 1, __ATOMIC_SEQ_CST)
#define qatomic_xchg(p, v) __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST)
#define qatomic_rcu_read(p) __atomic_load_n(p, __ATOMIC_CONSUME)
#define QSIMPLEQ_HEAD(name, type) STAILQ_HEAD(name, type)
#define QSIMPLEQ_ENTRY(type) STAILQ_ENTRY(type)
#define QSIMPLEQ_INIT(head) STAILQ_INIT(head)
#define QSIMPLEQ_FIRST(head) STAILQ_FIRST(head)
#define QSIMPLEQ_INSERT_HEAD(head, element, field) STAILQ_INSERT_HEAD(head, element, field)
#define QSIMPLEQ_INSERT_TAIL(head, element, field) STAILQ_INSERT_TAIL(head, element, field)
#define QSIMPLEQ_REMOVE_HEAD(head, field) STAILQ_REMOVE_HEAD(head, field)
#define QSIMPLEQ_CONCAT(to, from) STAILQ_CONCAT(to, from)
#define QSIMPLEQ_FOREACH_SAFE(element, head, field, next_element) \
  for ((element) = STAILQ_FIRST(head);                            \
       (element) && ((next_element) = STAILQ_NEXT(element, field), 1); (element) = (next_element))
typedef __int128 Int128;
#define int128_get64(x) ((uint64_t)(x))

/* qemu/rcu.h. The callback runs when nobody can be within a read side. */
struct rcu_head {
  int unused;
};
#define RCU_READ_LOCK_GUARD() ((void)0)
#define call_rcu(object, fn, field) shim_call_rcu(object, (void (*)(void *))(fn))
void shim_call_rcu(void *object, void (*fn)(void *));

/* exec/memory.h and what is around it */
typedef uint64_t hwaddr;
typedef uint64_t ram_addr_t;
#define RAM_ADDR_INVALID (~(ram_addr_t)0)
typedef struct MemoryRegion {
  bool ram;
  bool ram_device;
  bool rom_device;
  bool is_iommu;
} MemoryRegion;
typedef struct FlatView FlatView;
typedef struct AddressSpace AddressSpace;
typedef struct MemoryRegionCache {
  uint8_t *ptr;
  hwaddr start;
  hwaddr length;
  bool is_write;
} MemoryRegionCache;
typedef struct MemoryListener {
  const char *name;
  void (*commit)(struct MemoryListener *listener);
} MemoryListener;
typedef bool (*flatview_cb)(Int128 start, Int128 length, const MemoryRegion *mr,
                            hwaddr offset_in_region, void *opaque);
FlatView *address_space_to_flatview(AddressSpace *as);
void flatview_for_each_range(FlatView *view, flatview_cb fn, void *opaque);
int64_t address_space_cache_init(MemoryRegionCache *cache, AddressSpace *as, hwaddr address,
                                 hwaddr length, bool is_write);
void address_space_cache_invalidate(MemoryRegionCache *cache, hwaddr offset, int64_t length);
void address_space_cache_destroy(MemoryRegionCache *cache);
void memory_listener_register(MemoryListener *listener, AddressSpace *as);
void memory_listener_unregister(MemoryListener *listener);
ram_addr_t qemu_ram_addr_from_host(void *host);
MemoryRegion *memory_region_from_host(void *host, ram_addr_t *offset);
void memory_region_set_dirty(MemoryRegion *mr, hwaddr offset, hwaddr length);

/* block/aio.h, block/block.h, qemu/error-report.h */
typedef struct AioContext AioContext;
typedef struct IOThread IOThread;
typedef enum BlockErrorAction {
  BLOCK_ERROR_ACTION_IGNORE,
  BLOCK_ERROR_ACTION_REPORT,
  BLOCK_ERROR_ACTION_STOP,
} BlockErrorAction;
#define BDRV_SECTOR_BITS 9
#define BDRV_REQUEST_MAX_SECTORS (INT_MAX >> BDRV_SECTOR_BITS)
AioContext *qemu_get_aio_context(void);
void error_report(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* qemu/iov.h */
size_t iov_size(const struct iovec *iov, unsigned count);
size_t iov_to_buf(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t bytes);
size_t iov_from_buf(const struct iovec *iov, unsigned count, size_t offset, const void *from,
                    size_t bytes);

/* hw/virtio/virtio.h, virtio-access.h; the driver is little-endian, as with virtio 1.0 */
#define VIRTQUEUE_MAX_SIZE 1024
#define VIRTIO_F_RING_PACKED 34
typedef struct VirtQueue VirtQueue;
typedef struct VirtIODevice {
  AddressSpace *dma_as;
  uint64_t features;
  bool disabled; /* broken, until the driver resets it */
} VirtIODevice;
typedef struct VirtQueueElement {
  unsigned index;
  unsigned len;
  unsigned ndescs;
  unsigned out_num;
  unsigned in_num;
  hwaddr *in_addr;
  hwaddr *out_addr;
  struct iovec *in_sg;
  struct iovec *out_sg;
} VirtQueueElement;
static inline uint16_t virtio_lduw_p(VirtIODevice *vdev, const void *p) {
  uint16_t value;

  (void)vdev;
  memcpy(&value, p, sizeof(value));
  return value;
}
static inline uint32_t virtio_ldl_p(VirtIODevice *vdev, const void *p) {
  uint32_t value;

  (void)vdev;
  memcpy(&value, p, sizeof(value));
  return value;
}
static inline uint64_t virtio_ldq_p(VirtIODevice *vdev, const void *p) {
  uint64_t value;

  (void)vdev;
  memcpy(&value, p, sizeof(value));
  return value;
}
bool virtio_vdev_has_feature(const VirtIODevice *vdev, unsigned bit);
bool virtio_device_disabled(const VirtIODevice *vdev);
int virtio_get_queue_index(VirtQueue *vq);
int virtio_queue_get_num(VirtIODevice *vdev, int index);
hwaddr virtio_queue_get_desc_addr(VirtIODevice *vdev, int index);
hwaddr virtio_queue_get_avail_addr(VirtIODevice *vdev, int index);
unsigned virtio_queue_get_last_avail_idx(VirtIODevice *vdev, int index);
void virtio_queue_set_last_avail_idx(VirtIODevice *vdev, int index, uint16_t next);
int virtio_queue_get_notification(VirtQueue *vq);
void virtio_queue_set_notification(VirtQueue *vq, int enable);
int virtio_queue_empty(VirtQueue *vq);
void *virtqueue_pop(VirtQueue *vq, size_t size);
void virtqueue_fill(VirtQueue *vq, const VirtQueueElement *elem, unsigned length, unsigned at);
void virtqueue_flush(VirtQueue *vq, unsigned count);
void virtqueue_detach_element(VirtQueue *vq, const VirtQueueElement *elem, unsigned length);

/* hw/qemu-compat.h */
bool cloudblk_compat_xen(void);
void cloudblk_compat_count_popped(VirtQueue *vq, unsigned count);
void cloudblk_compat_notify(VirtIODevice *vdev, VirtQueue *vq, bool in_iothread);

#ifdef __cplusplus
}
#endif

#endif /* CLOUDBLK_TESTS_FUZZ_QEMU_SHIM_H_ */
