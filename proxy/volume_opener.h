// SPDX-License-Identifier: GPL-2.0-or-later
//
// Opens the volumes of a configuration, each on a thread of its own: a storage that hangs does not
// keep the others from being served.
#ifndef CLOUDBLK_PROXY_VOLUME_OPENER_H_
#define CLOUDBLK_PROXY_VOLUME_OPENER_H_

#include <chrono>
#include <memory>
#include <system_error>

#include "base/status.h"
#include "proxy/options.h"
#include "proxy/volume.h"

namespace cloudblk::proxy {

// One line for the user.
Status CannotStartThread(const std::system_error& error);

class VolumeOpener {
 public:
  // `volumes` and `alarm` outlive the object, and its threads.
  VolumeOpener(VolumeMap* volumes, AlarmClock* alarm);

  // Names the volumes in the map, and waits until their storages have answered, at most `patience`;
  // those of which one does not yet are served when it does. An error, of one that could not be
  // opened, is one line for the user. Once.
  Status Open(const Options& options, std::chrono::milliseconds patience);

  // Whether a storage has not answered yet: a thread uses the volumes then, and the process must
  // end without destructors.
  bool pending() const;

 private:
  struct State;

  static Result<std::unique_ptr<Volume>> OpenOne(const Options& options,
                                                 const VolumeOptions& wanted, AlarmClock* alarm);

  void OpenOnThread(const Options& options, size_t index);

  VolumeMap* const volumes_;
  AlarmClock* const alarm_;
  std::shared_ptr<State> state_;  // shared with the threads
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_VOLUME_OPENER_H_
