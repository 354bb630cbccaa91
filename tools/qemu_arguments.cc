// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/qemu_arguments.h"

#include <charconv>
#include <nlohmann/json.hpp>

namespace cloudblk {
namespace {

constexpr unsigned kMaxSlot = 0x1f;

std::map<std::string, std::string> ParseJson(std::string_view argument) {
  std::map<std::string, std::string> found;
  const auto json = nlohmann::json::parse(argument, nullptr, false);
  if (!json.is_object()) return found;
  for (const auto& [name, value] : json.items()) {
    found[name] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return found;
}

}  // namespace

std::string FormatDevice(std::string_view driver,
                         const std::vector<std::pair<std::string, std::string>>& properties) {
  std::string text(driver);
  for (const auto& [name, value] : properties) {
    text += "," + name + "=";
    for (const char c : value) text.append(c == ',' ? 2 : 1, c);
  }
  return text;
}

std::map<std::string, std::string> ParseDevice(std::string_view argument) {
  if (argument.starts_with('{')) return ParseJson(argument);
  std::vector<std::string> words(1);
  for (size_t i = 0; i < argument.size(); ++i) {
    if (argument[i] != ',') {
      words.back() += argument[i];
    } else if (i + 1 < argument.size() && argument[i + 1] == ',') {
      words.back() += argument[i++];
    } else {
      words.emplace_back();
    }
  }
  std::map<std::string, std::string> found;
  for (size_t i = 0; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    if (equals != std::string::npos) {
      found[words[i].substr(0, equals)] = words[i].substr(equals + 1);
    } else if (i == 0) {
      found["driver"] = words[i];
    }
  }
  return found;
}

std::optional<unsigned> ParseSlot(std::string_view text) {
  text = text.substr(0, text.find('.'));
  if (text.starts_with("0x")) text.remove_prefix(2);
  unsigned slot = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), slot, 16);
  if (error != std::errc{} || rest != text.data() + text.size() || slot > kMaxSlot)
    return std::nullopt;
  return slot;
}

}  // namespace cloudblk
