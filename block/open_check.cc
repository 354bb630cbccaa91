// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/open_check.h"

#include <cerrno>
#include <string>

namespace cloudblk {

Failure CheckOpened(const SessionState& session, const VolumeInfo& found, const Capabilities& can) {
  const SessionConfig& config = session.config();
  if (!can.flush && !session.observe() && !found.read_only && !config.read_only &&
      !config.accept_no_flush) {
    return {.error = ENOTSUP,
            .text =
                "it announces no FLUSH, so that nothing is ever known to be durable; let it, "
                "open the disk with read-only=on, or say ?noflush=accept",
            .refusal = Refusal::kOther};
  }
  if (!session.has_volume()) return {};
  const VolumeInfo& volume = session.volume();
  if (found.uuid != volume.uuid || found.logical_block_size != volume.logical_block_size) {
    return {.error = ESTALE,
            .text = "the volume of this name is another one now",
            .refusal = Refusal::kOtherVolume};
  }
  if (found.write_cache && !session.write_cache()) {
    return {.error = EPROTO,
            .text = "the volume has a write cache now, of which its user does not know"};
  }
  if (config.channels > 1 && !can.several_channels) {
    return {.error = ENOTSUP,
            .text = "it does not promise any more that several connections see each other's writes",
            .refusal = Refusal::kOtherVolume};
  }
  // Whose server tells of nothing else has to be the same as it was.
  if (can.generation) return {};
  if (found.size < session.size()) {
    return {.error = ESTALE,
            .text = "the export has " + std::to_string(found.size) + " bytes now, and had " +
                    std::to_string(session.size()),
            .refusal = Refusal::kOtherVolume};
  }
  if ((found.max_discard_length == 0 && volume.max_discard_length != 0) ||
      (found.max_write_zeroes_length == 0 && volume.max_write_zeroes_length != 0)) {
    return {.error = ENOTSUP,
            .text = "the export does not take TRIM or WRITE_ZEROES any more, and did",
            .refusal = Refusal::kOtherVolume};
  }
  if (found.read_only && !session.read_only()) {
    return {.error = EROFS,
            .text = "the export cannot be written any more",
            .refusal = Refusal::kOtherVolume};
  }
  return {};
}

}  // namespace cloudblk
