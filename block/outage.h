// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BLOCK_OUTAGE_H_
#define CLOUDBLK_BLOCK_OUTAGE_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "base/clock.h"

namespace cloudblk {

// A reason that two lines give is the same if only times and counts in it differ.
std::string WithoutNumbers(std::string text);

// What people are told while a session is without its servers: that it lost one, why it does not
// come back, again when the reason changes and now and then, and that it is back. One for all
// channels, any thread. However fast connections come and go, lines become rarer.
class Outage {
 public:
  // How long a connection has to hold until its being back is told after all, if it was not at
  // once.
  static constexpr int64_t kHolds = 10 * kNsPerS;

  // Each returns the line that is to be logged now, or nothing.

  // A channel that was ready lost its server. `next`: what it does about it.
  std::string Lost(int64_t now, const std::string& server, const std::string& why,
                   const std::string& next);
  // An attempt to come back has failed, or takes long.
  std::string Failed(int64_t now, const std::string& server, const std::string& why);
  // Every channel is ready.
  std::string Restored(int64_t now, const std::string& server);
  // While it stays so: what Restored has kept back.
  std::string Holds(int64_t now, const std::string& server);
  // Whether Holds is to be asked now and then.
  bool restored_untold() const;

  bool away() const;
  // How things are, for people.
  std::string Describe(int64_t now) const;

 private:
  bool MayTell(int64_t now) const;
  std::string Tell(int64_t now, std::string line);
  std::string Since(int64_t now) const;

  mutable std::mutex mutex_;
  bool away_ = false;
  bool restored_untold_ = false;
  int64_t since_ns_ = 0;     // away, or back
  std::string reason_;       // that was last seen
  std::string lost_why_;     // of the present outage's first loss, without numbers
  std::string lost_untold_;  // the same in full, if that was not told
  uint32_t losses_ = 0;      // since things were quiet
  uint32_t told_ = 0;        // lines since then
  int64_t told_ns_ = 0;      // the last one
  int64_t reminded_ns_ = 0;  // when something was last told of the present outage
  bool reminded_ = false;    // once, of the present outage
  // What was told of each server in the present outage, without numbers: times that run out are no
  // news.
  std::map<std::string, std::string> told_of_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_OUTAGE_H_
