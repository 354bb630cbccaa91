// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who may write to a volume, as a short text that is kept where the volume lives.
#ifndef CLOUDBLK_PROXY_OWNER_RECORD_H_
#define CLOUDBLK_PROXY_OWNER_RECORD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/uuid.h"
#include "proxy-protocol/wire.h"

namespace cloudblk::proxy {

struct OwnerRecord {
  struct Holder {
    Uuid session;
    uint64_t epoch = 0;
    bool share_rw = false;
    bool read_only = false;
    std::optional<Uuid> token;  // released, and waiting to be claimed
    Uuid spent;                 // the token that made this epoch active; nil: none did
    Uuid claimer;               // of this epoch; nil: has no id, or is not known
    std::string client_name;

    bool operator==(const Holder&) const = default;
  };
  // Who held it last, when nobody does now.
  struct Former {
    Uuid session;
    uint64_t epoch = 0;  // 0: not known, nor is the claimer
    Uuid claimer;        // of this epoch; nil: has no id
    Uuid spent;          // the token that made this epoch active; nil: none did

    bool operator==(const Former&) const = default;
  };
  std::vector<Holder> holders;
  std::vector<Former> last;

  bool operator==(const OwnerRecord&) const = default;
};

// A client's name as a record keeps it: on one line, and cut.
std::string KeptName(const std::string& name);

// Whether `kept`, if it says anything, names other holders than `present` does, or another token
// that the volume is reserved for. If not, it may still say less of them.
bool Contradicts(const OwnerRecord& kept, const OwnerRecord& present);

// Lines of text; an empty record is an empty text.
std::string Format(const OwnerRecord& record);
// EINVAL: a line makes no sense, which the text names. It may be damaged, or of a later release: in
// either case it may be a holder's.
Result<OwnerRecord> ParseOwnerRecord(std::string_view text);

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_OWNER_RECORD_H_
