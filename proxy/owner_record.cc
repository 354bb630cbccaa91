// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/owner_record.h"

#include <fmt/format.h>

#include <charconv>
#include <sstream>

namespace cloudblk::proxy {
namespace {

// File systems give all attributes of a file a few kilobytes.
constexpr size_t kMaxNameKept = 64;

std::string OneLine(const std::string& text) {
  std::string line(wire::CutText(text, kMaxNameKept));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return line;
}

bool ParseHolder(std::istringstream* line, OwnerRecord::Holder* holder) {
  std::string session;
  std::string mode;
  std::string token;
  if (!(*line >> session >> holder->epoch >> mode >> token)) return false;
  const std::optional<wire::Uuid> uuid = ParseUuid(session);
  if (!uuid) return false;
  holder->session = *uuid;
  holder->share_rw = mode == "share-rw";
  holder->read_only = mode == "read-only";
  if (token != "-") {
    holder->token = ParseUuid(token);
    if (!holder->token) return false;
  }
  std::getline(*line >> std::ws, holder->client_name);
  return true;
}

// Behind the line of the holder.
void AddSpent(const std::string& session, const std::string& token, OwnerRecord* record) {
  for (OwnerRecord::Holder& holder : record->holders) {
    if (ToString(holder.session) == session) holder.spent = ParseUuid(token).value_or(wire::Uuid{});
  }
}

}  // namespace

std::string ToString(const wire::Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid.bytes[i]);
  }
  return text;
}

std::optional<wire::Uuid> ParseUuid(std::string_view text) {
  if (text.size() != 36) return std::nullopt;
  wire::Uuid uuid;
  size_t at = 0;
  for (size_t i = 0; i < uuid.bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) {
      if (text[at++] != '-') return std::nullopt;
    }
    const char* begin = text.data() + at;
    const auto [end, error] = std::from_chars(begin, begin + 2, uuid.bytes[i], 16);
    if (error != std::errc{} || end != begin + 2) return std::nullopt;
    at += 2;
  }
  return uuid;
}

std::string Format(const OwnerRecord& record) {
  std::string text;
  for (const OwnerRecord::Holder& holder : record.holders) {
    text += fmt::format("holder {} {} {} {} {}\n", ToString(holder.session), holder.epoch,
                        holder.share_rw    ? "share-rw"
                        : holder.read_only ? "read-only"
                                           : "exclusive",
                        holder.token ? ToString(*holder.token) : "-", OneLine(holder.client_name));
  }
  for (const OwnerRecord::Holder& holder : record.holders) {
    if (holder.spent.IsNil()) continue;
    text += fmt::format("spent {} {}\n", ToString(holder.session), ToString(holder.spent));
  }
  for (const wire::Uuid& uuid : record.last) text += fmt::format("last {}\n", ToString(uuid));
  return text;
}

OwnerRecord ParseOwnerRecord(std::string_view text) {
  OwnerRecord record;
  std::istringstream lines{std::string(text)};
  for (std::string row; std::getline(lines, row);) {
    std::istringstream line(row);
    std::string kind;
    line >> kind;
    OwnerRecord::Holder holder;
    if (kind == "holder" && ParseHolder(&line, &holder)) record.holders.push_back(holder);
    std::string session;
    std::string token;
    if (kind == "spent" && line >> session >> token) AddSpent(session, token, &record);
    std::string last;
    if (kind == "last" && line >> last) {
      if (const std::optional<wire::Uuid> uuid = ParseUuid(last)) record.last.push_back(*uuid);
    }
  }
  return record;
}

}  // namespace cloudblk::proxy
