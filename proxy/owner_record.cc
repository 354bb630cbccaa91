// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/owner_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <sstream>

#include "base/text.h"

namespace cloudblk::proxy {
namespace {

// File systems give all attributes of a file a few kilobytes.
constexpr size_t kMaxNameKept = 64;

// Each adds a line to the record. False: it makes no sense.
bool AddHolder(std::istringstream* line, OwnerRecord* record) {
  OwnerRecord::Holder holder;
  std::string session;
  std::string mode;
  std::string token;
  if (!(*line >> session >> holder.epoch >> mode >> token)) return false;
  const std::optional<Uuid> uuid = ParseUuid(session);
  if (!uuid) return false;
  holder.session = *uuid;
  holder.share_rw = mode == "share-rw";
  holder.read_only = mode == "read-only";
  if (!holder.share_rw && !holder.read_only && mode != "exclusive") return false;
  if (token != "-") {
    holder.token = ParseUuid(token);
    if (!holder.token) return false;
  }
  std::getline(*line >> std::ws, holder.client_name);
  record->holders.push_back(std::move(holder));
  return true;
}

// Stands behind the line of its holder.
bool AddSpent(std::istringstream* line, OwnerRecord* record) {
  std::string session;
  std::string token;
  std::string id;
  if (!(*line >> session >> token)) return false;
  const std::optional<Uuid> spent = ParseUuid(token);
  const std::optional<Uuid> claimer = *line >> id ? ParseUuid(id) : Uuid{};
  if (!spent || !claimer) return false;
  for (OwnerRecord::Holder& holder : record->holders) {
    if (ToString(holder.session) != session) continue;
    holder.spent = *spent;
    holder.claimer = *claimer;
    return true;
  }
  return false;
}

std::string FormatOptional(const Uuid& uuid) { return uuid.IsNil() ? "-" : ToString(uuid); }

std::optional<Uuid> ParseOptional(const std::string& text) {
  return text == "-" ? Uuid{} : ParseUuid(text);
}

bool AddLast(std::istringstream* line, OwnerRecord* record) {
  OwnerRecord::Former former;
  std::string session;
  std::string claimer;
  std::string spent;
  if (!(*line >> session)) return false;
  const std::optional<Uuid> uuid = ParseUuid(session);
  if (!uuid) return false;
  former.session = *uuid;
  // Releases before it was kept wrote the line to here, and read it to here.
  if (*line >> std::ws; !line->eof()) {
    if (!(*line >> former.epoch >> claimer >> spent)) return false;
    const std::optional<Uuid> id = ParseOptional(claimer);
    const std::optional<Uuid> token = ParseOptional(spent);
    // Epochs count from 1: of none, nothing more is known.
    if (!id || !token || former.epoch == 0) return false;
    former.claimer = *id;
    former.spent = *token;
  }
  record->last.push_back(former);
  return true;
}

}  // namespace

std::string KeptName(const std::string& name) { return Printable(CutText(name, kMaxNameKept)); }

bool Contradicts(const OwnerRecord& kept, const OwnerRecord& present) {
  if (kept.holders.empty()) return kept.last != present.last;
  // Both are in the order of the sessions.
  return !std::ranges::equal(kept.holders, present.holders, [](const auto& was, const auto& is) {
    return was.session == is.session && was.epoch == is.epoch && was.token == is.token;
  });
}

std::string Format(const OwnerRecord& record) {
  std::string text;
  for (const OwnerRecord::Holder& holder : record.holders) {
    text += fmt::format("holder {} {} {} {} {}\n", ToString(holder.session), holder.epoch,
                        holder.share_rw    ? "share-rw"
                        : holder.read_only ? "read-only"
                                           : "exclusive",
                        holder.token ? ToString(*holder.token) : "-", KeptName(holder.client_name));
  }
  for (const OwnerRecord::Holder& holder : record.holders) {
    if (holder.spent.IsNil() && holder.claimer.IsNil()) continue;
    text += fmt::format("spent {} {}", ToString(holder.session), ToString(holder.spent));
    // A proxy of a release that kept no claimer reads the line up to here.
    if (!holder.claimer.IsNil()) text += " " + ToString(holder.claimer);
    text += '\n';
  }
  for (const OwnerRecord::Former& former : record.last) {
    text += "last " + ToString(former.session);
    if (former.epoch != 0) {
      text += fmt::format(" {} {} {}", former.epoch, FormatOptional(former.claimer),
                          FormatOptional(former.spent));
    }
    text += '\n';
  }
  return text;
}

Result<OwnerRecord> ParseOwnerRecord(std::string_view text) {
  OwnerRecord record;
  std::istringstream lines{std::string(text)};
  for (std::string row; std::getline(lines, row);) {
    std::istringstream line(row);
    std::string kind;
    line >> kind;
    const bool sense = kind == "holder"  ? AddHolder(&line, &record)
                       : kind == "spent" ? AddSpent(&line, &record)
                       : kind == "last"  ? AddLast(&line, &record)
                                         : false;
    if (!sense) return Status(EINVAL, "its record has a damaged line: " + KeptName(row));
  }
  return record;
}

}  // namespace cloudblk::proxy
