// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where a volume has data, and where it reads as zeros.
#ifndef CLOUDBLK_TOOLS_EXTENTS_H_
#define CLOUDBLK_TOOLS_EXTENTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "tools/client.h"

namespace cloudblk {

// Walks over a part of a volume, from the front to the back, and asks the server as it goes on. Of
// a server that does not tell all is data.
class ExtentReader {
 public:
  struct Extent {
    uint64_t offset = 0;  // bytes
    uint64_t length = 0;  // bytes; 0: the end was reached
    bool hole = false;    // nothing is allocated for it
    bool zero = false;    // it reads as zeros
  };

  // Of the bytes from `offset` to `end`, which need not be whole blocks. `client` outlives the
  // object.
  ExtentReader(Client* client, uint64_t offset, uint64_t end)
      : client_(client), at_(offset), end_(end) {}

  // The next one, which begins where the last one ended; what is alike and adjoins is one.
  Result<Extent> Next();

 private:
  Status Ask();

  Client* const client_;
  uint64_t at_;
  const uint64_t end_;
  std::vector<CloudblkExtent> answer_;
  size_t next_ = 0;          // of answer_
  uint64_t next_begin_ = 0;  // where that begins on the volume
};

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_EXTENTS_H_
