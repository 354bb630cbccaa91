/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest's memory, looked up once for all of it. */
#include "cloudblk-memory.h"

#include "qemu/int128.h"
#include "qemu/rcu.h"

typedef struct RamRange {
    hwaddr start;
    hwaddr length;
    bool writable;
    MemoryRegionCache cache; /* holds the region and the memory map */
} RamRange;

struct CloudblkMemory {
    struct rcu_head rcu;
    int refs; /* atomic */
    bool translated;
    unsigned count;
    RamRange *last; /* where the last address was found */
    RamRange ranges[]; /* by address, and an empty one behind them */
};

/* ---- Making it ---- */

typedef struct Found {
    GArray *ranges;
    bool translated;
} Found;

static bool find_ram(Int128 start, Int128 length, const MemoryRegion *mr,
                     hwaddr offset_in_region, void *opaque)
{
    Found *found = opaque;

    found->translated |= mr->is_iommu;
    if ((mr->ram && !mr->ram_device) || mr->rom_device) {
        RamRange range = {
            .start = int128_get64(start),
            .length = int128_get64(length),
        };

        g_array_append_val(found->ranges, range);
    }
    return false;
}

/* Whether the range can be accessed at all. */
static bool open_range(RamRange *range, AddressSpace *as)
{
    int64_t length;

    range->writable = true;
    length = address_space_cache_init(&range->cache, as, range->start,
                                      range->length, true);
    if (!range->cache.ptr) {
        address_space_cache_destroy(&range->cache);
        range->writable = false;
        length = address_space_cache_init(&range->cache, as, range->start,
                                          range->length, false);
    }
    if (!range->cache.ptr || length <= 0) {
        address_space_cache_destroy(&range->cache);
        return false;
    }
    range->length = length;
    return true;
}

static CloudblkMemory *make_memory(AddressSpace *as)
{
    Found found = { .ranges = g_array_new(false, false, sizeof(RamRange)) };
    CloudblkMemory *memory;
    unsigned i;

    /* Xen maps the guest's memory piece by piece: left to QEMU's functions */
    if (cloudblk_compat_xen()) {
        found.translated = true;
    } else {
        flatview_for_each_range(address_space_to_flatview(as), find_ram,
                                &found);
    }
    memory = g_malloc0(sizeof(*memory) +
                       (found.ranges->len + 1) * sizeof(RamRange));
    memory->refs = 1;
    memory->translated = found.translated;
    for (i = 0; i < found.ranges->len; i++) {
        RamRange *range = &memory->ranges[memory->count];

        *range = g_array_index(found.ranges, RamRange, i);
        memory->count += open_range(range, as);
    }
    g_array_free(found.ranges, true);
    memory->last = memory->ranges;
    return memory;
}

CloudblkMemory *cloudblk_memory_ref(CloudblkMemory *memory)
{
    qatomic_inc(&memory->refs);
    return memory;
}

void cloudblk_memory_unref(CloudblkMemory *memory)
{
    unsigned i;

    if (qatomic_fetch_dec(&memory->refs) != 1) {
        return;
    }
    for (i = 0; i < memory->count; i++) {
        address_space_cache_destroy(&memory->ranges[i].cache);
    }
    g_free(memory);
}

/* The loop looks at the memory map anew. Who uses the old one may go on. */
static void forget(CloudblkLoop *loop)
{
    CloudblkMemory *memory = qatomic_xchg(&loop->memory, NULL);

    if (memory) {
        call_rcu(memory, cloudblk_memory_unref, rcu);
    }
}

CloudblkMemory *cloudblk_memory_get(CloudblkLoop *loop)
{
    CloudblkDisk *disk = loop->disk;
    AddressSpace *as = disk->vdev->dma_as;
    CloudblkMemory *memory = qatomic_rcu_read(&loop->memory);
    FlatView *view;

    if (memory || !qatomic_read(&disk->memory_watched)) {
        return memory;
    }
    view = address_space_to_flatview(as);
    memory = make_memory(as);
    qatomic_xchg(&loop->memory, memory);
    /* A change in between did not find it, so it would stay for good */
    if (view != address_space_to_flatview(as)) {
        forget(loop);
    }
    return memory;
}

/* ---- Following the memory map ---- */

static void forget_all(CloudblkDisk *disk)
{
    unsigned i;

    for (i = 0; i < disk->num_loops; i++) {
        forget(&disk->loops[i]);
    }
}

static void map_changed(MemoryListener *listener)
{
    forget_all(container_of(listener, CloudblkDisk, memory_listener));
}

void cloudblk_memory_watch(CloudblkDisk *disk)
{
    if (disk->memory_watched) {
        return;
    }
    disk->memory_listener = (MemoryListener){
        .name = "cloudblk",
        .commit = map_changed,
    };
    memory_listener_register(&disk->memory_listener, disk->vdev->dma_as);
    qatomic_set(&disk->memory_watched, true);
}

void cloudblk_memory_unwatch(CloudblkDisk *disk)
{
    if (!disk->memory_watched) {
        return;
    }
    qatomic_set(&disk->memory_watched, false);
    memory_listener_unregister(&disk->memory_listener);
    forget_all(disk);
}

/* ---- Using it ---- */

bool cloudblk_memory_is_translated(const CloudblkMemory *memory)
{
    return memory->translated;
}

static inline bool holds(const RamRange *range, hwaddr address)
{
    return address - range->start < range->length;
}

static RamRange *search(CloudblkMemory *memory, hwaddr address)
{
    unsigned low = 0, high = memory->count;

    while (low < high) {
        unsigned middle = (low + high) / 2;
        RamRange *range = &memory->ranges[middle];

        if (holds(range, address)) {
            memory->last = range;
            return range;
        }
        if (address < range->start) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

static inline RamRange *find(CloudblkMemory *memory, hwaddr address)
{
    /* Nearly all addresses are in one and the same range */
    return likely(holds(memory->last, address)) ? memory->last
                                                : search(memory, address);
}

uint8_t *cloudblk_memory_map(CloudblkMemory *memory, hwaddr address,
                             hwaddr *length, bool is_write)
{
    RamRange *range = find(memory, address);
    hwaddr offset;

    if (!range || (is_write && !range->writable)) {
        return NULL;
    }
    offset = address - range->start;
    *length = MIN(*length, range->length - offset);
    return range->cache.ptr + offset;
}

void cloudblk_memory_written(CloudblkMemory *memory, hwaddr address,
                             hwaddr length)
{
    RamRange *range = find(memory, address);

    address_space_cache_invalidate(&range->cache, address - range->start,
                                   length);
}
