// SPDX-License-Identifier: GPL-2.0-or-later
//
// Backend URIs: scheme, path and options, checked against what the backend knows.
#ifndef CLOUDBLK_PROXY_BACKEND_URI_H_
#define CLOUDBLK_PROXY_BACKEND_URI_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace cloudblk::proxy {

class BackendUri {
 public:
  // `scheme:[//][path][?key=value[&key=value]...]`, percent-encoding decoded. EINVAL.
  static Result<BackendUri> Parse(const std::string& text);

  const std::string& text() const { return text_; }
  const std::string& scheme() const { return scheme_; }
  const std::string& path() const { return path_; }

  // Each option may be taken once; a value that makes no sense is EINVAL, with the URI in the text.
  std::optional<std::string> Take(const std::string& key);
  Result<std::optional<uint64_t>> TakeSize(const std::string& key);
  Result<bool> TakeSwitch(const std::string& key, bool otherwise);  // on|off
  // logical-block-size=, a power of two from 512 to 4096 bytes.
  Result<uint32_t> TakeBlockSize(uint32_t otherwise);
  // EINVAL if an option is left that nobody took.
  Status CheckAllTaken() const;

 private:
  std::string text_;
  std::string scheme_;
  std::string path_;
  std::map<std::string, std::string> options_;
};

// "4096", "512K", "1G", "2T" (powers of 1024) in bytes.
std::optional<uint64_t> ParseSize(std::string_view text);

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKEND_URI_H_
