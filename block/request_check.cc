// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/request_check.h"

#include <cerrno>

namespace cloudblk {
namespace {

bool Aligned(const SessionState& session, uint64_t offset, uint64_t length) {
  return ((offset | length) & (session.volume().logical_block_size - 1)) == 0;
}

bool Within(const SessionState& session, uint64_t offset, uint64_t length) {
  const uint64_t size = session.size();
  return length != 0 && Aligned(session, offset, length) && offset <= size &&
         length <= size - offset;
}

// False: it overflows.
bool Add(uint64_t length, uint64_t* total) {
  if (length > uint64_t{INT64_MAX} - *total) return false;
  *total += length;
  return true;
}

int CheckData(const SessionState& session, const CloudblkRequest& request, uint64_t* length) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < request.iov_count; ++i) {
    if (!Add(request.iov[i].iov_len, &total)) return -EINVAL;
  }
  if (!Within(session, request.offset, total)) return -EINVAL;
  *length = total;
  return 0;
}

int CheckRanges(const SessionState& session, const CloudblkRequest& request, uint64_t* length) {
  const bool discard = request.operation == CLOUDBLK_OP_DISCARD;
  const VolumeInfo& volume = session.volume();
  if ((discard ? volume.max_discard_length : volume.max_write_zeroes_length) == 0) return -ENOTSUP;
  const uint32_t allowed = discard ? 0 : CLOUDBLK_RANGE_UNMAP;
  uint64_t total = 0;
  for (uint32_t i = 0; i < request.range_count; ++i) {
    const CloudblkRange& range = request.ranges[i];
    if (!Within(session, range.offset, range.length) || (range.flags & ~allowed) != 0 ||
        !Add(range.length, &total)) {
      return -EINVAL;
    }
  }
  *length = total;
  return total == 0 ? -EINVAL : 0;
}

int CheckBlockStatus(const SessionState& session, const CloudblkRequest& request) {
  if (!session.promises().block_status) return -ENOTSUP;
  if (request.range_count != 1 || request.iov_count != 1) return -EINVAL;
  const CloudblkRange& range = request.ranges[0];
  return Within(session, range.offset, range.length) && range.flags == 0 &&
                 request.iov[0].iov_len >= sizeof(CloudblkExtent)
             ? 0
             : -EINVAL;
}

uint32_t AllowedFlags(CloudblkOperation operation) {
  switch (operation) {
    case CLOUDBLK_OP_WRITE:
    case CLOUDBLK_OP_WRITE_ZEROES:
      return CLOUDBLK_REQUEST_MORE | CLOUDBLK_REQUEST_FUA;
    case CLOUDBLK_OP_FLUSH:
      return CLOUDBLK_REQUEST_MORE | CLOUDBLK_REQUEST_OWN | CLOUDBLK_REQUEST_AGAIN;
    default:
      return CLOUDBLK_REQUEST_MORE;
  }
}

}  // namespace

int CheckRequest(const SessionState& session, const CloudblkRequest& request, uint64_t* length) {
  *length = 0;
  if (session.revoked()) return -EIO;
  if (session.observe() && request.operation != CLOUDBLK_OP_BLOCK_STATUS) return -ENOTSUP;
  if ((request.flags & ~AllowedFlags(request.operation)) != 0) return -EINVAL;
  switch (request.operation) {
    case CLOUDBLK_OP_READ:
      return CheckData(session, request, length);
    case CLOUDBLK_OP_FLUSH:
      return 0;
    case CLOUDBLK_OP_WRITE:
      return session.read_only() ? -EROFS : CheckData(session, request, length);
    case CLOUDBLK_OP_DISCARD:
    case CLOUDBLK_OP_WRITE_ZEROES:
      return session.read_only() ? -EROFS : CheckRanges(session, request, length);
    case CLOUDBLK_OP_BLOCK_STATUS:
      return CheckBlockStatus(session, request);
  }
  return -EINVAL;
}

}  // namespace cloudblk
