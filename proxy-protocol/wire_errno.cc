// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy-protocol/wire_errno.h"

#include <cerrno>

namespace cloudblk::wire {

int ErrnoOf(StatusCode status) {
  switch (status) {
    case StatusCode::kOk:
      return 0;
    case StatusCode::kIoError:
      return EIO;
    case StatusCode::kNoSpace:
      return ENOSPC;
    case StatusCode::kInvalid:
      return EINVAL;
    case StatusCode::kNotSupported:
      return ENOTSUP;
    case StatusCode::kReadOnly:
      return EROFS;
    case StatusCode::kOutOfRange:
      return ERANGE;
    case StatusCode::kNoMemory:
      return ENOMEM;
    case StatusCode::kNotActive:
      return EPERM;
    case StatusCode::kNoSuchVolume:
      return ENOENT;
    case StatusCode::kBusy:
      return EBUSY;
    case StatusCode::kStale:
    case StatusCode::kFenced:
    case StatusCode::kVolumeChanged:
      return ESTALE;
    case StatusCode::kBadToken:
    case StatusCode::kDenied:
      return EACCES;
    case StatusCode::kBadVersion:
    case StatusCode::kBadFeature:
    case StatusCode::kProtocol:
      return EPROTO;
    case StatusCode::kShuttingDown:
      return ECONNREFUSED;
    case StatusCode::kTooMany:
      return EUSERS;
  }
  return EIO;
}

StatusCode StatusCodeOf(int error) {
  switch (error) {
    case 0:
      return StatusCode::kOk;
    case ENOSPC:
    case EDQUOT:
      return StatusCode::kNoSpace;
    case EINVAL:
      return StatusCode::kInvalid;
    case EOPNOTSUPP:
      return StatusCode::kNotSupported;
    case EROFS:
      return StatusCode::kReadOnly;
    case ENOMEM:
      return StatusCode::kNoMemory;
    default:
      return StatusCode::kIoError;
  }
}

}  // namespace cloudblk::wire
