// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/wire_errno.h"

#include <cerrno>

namespace cloudblk {

int ErrnoOf(wire::Status status) {
  switch (status) {
    case wire::Status::kOk:
      return 0;
    case wire::Status::kIoError:
      return EIO;
    case wire::Status::kNoSpace:
      return ENOSPC;
    case wire::Status::kInvalid:
      return EINVAL;
    case wire::Status::kNotSupported:
      return ENOTSUP;
    case wire::Status::kReadOnly:
      return EROFS;
    case wire::Status::kOutOfRange:
      return ERANGE;
    case wire::Status::kNoMemory:
      return ENOMEM;
    case wire::Status::kNotActive:
      return EPERM;
    case wire::Status::kNoSuchVolume:
      return ENOENT;
    case wire::Status::kBusy:
      return EBUSY;
    case wire::Status::kStale:
    case wire::Status::kFenced:
    case wire::Status::kVolumeChanged:
      return ESTALE;
    case wire::Status::kBadToken:
      return EACCES;
    case wire::Status::kBadVersion:
    case wire::Status::kBadFeature:
    case wire::Status::kProtocol:
      return EPROTO;
    case wire::Status::kShuttingDown:
      return ECONNREFUSED;
    case wire::Status::kTooMany:
      return EUSERS;
  }
  return EIO;
}

wire::Status StatusOf(int error) {
  switch (error) {
    case 0:
      return wire::Status::kOk;
    case ENOSPC:
    case EDQUOT:
      return wire::Status::kNoSpace;
    case EINVAL:
      return wire::Status::kInvalid;
    case EOPNOTSUPP:
      return wire::Status::kNotSupported;
    case EROFS:
      return wire::Status::kReadOnly;
    case ERANGE:
      return wire::Status::kOutOfRange;
    case ENOMEM:
      return wire::Status::kNoMemory;
    case EPERM:
      return wire::Status::kNotActive;
    default:
      return wire::Status::kIoError;
  }
}

}  // namespace cloudblk
