// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backend_uri.h"

#include <fmt/format.h>

#include <bit>
#include <cerrno>
#include <charconv>

namespace cloudblk::proxy {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<std::string> PercentDecode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = HexDigit(text[i + 1]);
    const int low = HexDigit(text[i + 2]);
    if (high < 0 || low < 0 || (high == 0 && low == 0)) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

}  // namespace

std::optional<uint64_t> ParseSize(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end == text.data()) return std::nullopt;
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  if (unit.empty()) return value;
  if (unit.size() > 1) return std::nullopt;
  constexpr std::string_view kUnits = "KMGTP";
  const char upper = static_cast<char>(unit[0] & ~0x20);
  const size_t index = kUnits.find(upper);
  if (index == std::string_view::npos) return std::nullopt;
  const unsigned shift = 10 * (static_cast<unsigned>(index) + 1);
  if (value > (uint64_t{INT64_MAX} >> shift)) return std::nullopt;
  return value << shift;
}

Result<BackendUri> BackendUri::Parse(const std::string& text) {
  const auto bad = [&](std::string_view what) {
    return Status(EINVAL, fmt::format("backend URI '{}': {}", text, what));
  };
  BackendUri uri;
  uri.text_ = text;
  std::string_view rest = text;
  const size_t colon = rest.find(':');
  if (colon == std::string_view::npos || colon == 0) {
    return bad("no scheme; write for example memory:?size=1G or file:///path");
  }
  uri.scheme_ = rest.substr(0, colon);
  rest.remove_prefix(colon + 1);
  const size_t question = rest.find('?');
  std::string_view query;
  if (question != std::string_view::npos) {
    query = rest.substr(question + 1);
    rest = rest.substr(0, question);
  }
  if (rest.starts_with("//")) rest.remove_prefix(2);
  std::optional<std::string> path = PercentDecode(rest);
  if (!path) return bad("broken percent-encoding in the path");
  uri.path_ = std::move(*path);
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(end == std::string_view::npos ? query.size() : end + 1);
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      return bad(fmt::format("'{}' is not key=value", pair));
    }
    std::optional<std::string> value = PercentDecode(pair.substr(equals + 1));
    if (!value) return bad(fmt::format("broken percent-encoding in '{}'", pair));
    const std::string key(pair.substr(0, equals));
    if (!uri.options_.emplace(key, std::move(*value)).second) {
      return bad(fmt::format("'{}' is given twice", key));
    }
  }
  return uri;
}

std::optional<std::string> BackendUri::Take(const std::string& key) {
  const auto node = options_.extract(key);
  if (node.empty()) return std::nullopt;
  return node.mapped();
}

Result<std::optional<uint64_t>> BackendUri::TakeSize(const std::string& key) {
  const std::optional<std::string> value = Take(key);
  if (!value) return std::optional<uint64_t>();
  const std::optional<uint64_t> size = ParseSize(*value);
  if (!size) {
    return Status(EINVAL,
                  fmt::format("backend URI '{}': {}={} is not a size; write for example {}=10G",
                              text_, key, *value, key));
  }
  return size;
}

Result<bool> BackendUri::TakeSwitch(const std::string& key, bool otherwise) {
  const std::optional<std::string> value = Take(key);
  if (!value) return otherwise;
  if (*value == "on") return true;
  if (*value == "off") return false;
  return Status(EINVAL, fmt::format("backend URI '{}': {}={} is neither {}=on nor {}=off", text_,
                                    key, *value, key, key));
}

Result<uint32_t> BackendUri::TakeBlockSize(uint32_t otherwise) {
  Result<std::optional<uint64_t>> size = TakeSize("logical-block-size");
  if (!size.ok()) return size.status();
  if (!*size) return otherwise;
  if (!std::has_single_bit(**size) || **size < 512 || **size > 4096) {
    return Status(EINVAL, fmt::format("backend URI '{}': logical-block-size is 512, 1024, 2048 or "
                                      "4096",
                                      text_));
  }
  return static_cast<uint32_t>(**size);
}

Status BackendUri::CheckAllTaken() const {
  if (options_.empty()) return Status::Ok();
  return Status(
      EINVAL, fmt::format("backend URI '{}': unknown option '{}'", text_, options_.begin()->first));
}

}  // namespace cloudblk::proxy
