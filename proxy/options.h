// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_OPTIONS_H_
#define CLOUDBLK_PROXY_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/socket.h"
#include "base/status.h"
#include "base/tls_credentials.h"
#include "proxy/access.h"
#include "proxy/limits.h"

namespace cloudblk::proxy {

struct VolumeOptions {
  std::string name;
  std::string backend;  // URI
};

struct Options {
  std::vector<Endpoint> listen;
  std::vector<Endpoint> admin;  // unix sockets, whose clients may do everything
  std::vector<VolumeOptions> volumes;
  uint32_t threads = 1;
  uint32_t lease_s = 10;
  uint32_t max_connections = kDefaultMaxConnections;
  uint64_t max_memory = kDefaultMaxMemory;  // bytes
  std::string log_level = "info";
  std::string state_dir = "/var/lib/cloudblk";
  std::vector<AccessRule> access;
  TlsSettings tls{.role = TlsSettings::Role::kServer};  // of the listeners that have it
  std::optional<TlsSettings::Kind> tls_kind;            // none: as the folder's files are
  bool insecure = false;                                // clear text to other hosts is wanted
};

inline constexpr uint32_t kMaxThreads = 256;
inline constexpr uint32_t kMaxLeaseS = 3600;
inline constexpr uint32_t kMostConnections = 1'000'000;
inline constexpr uint64_t kLeastMemory = uint64_t{16} << 20;  // bytes
inline const std::vector<std::string> kLogLevels = {"debug", "info", "warning", "error", "off"};

bool IsLogLevel(const std::string& text);

// NAME=BACKEND-URI. EINVAL.
Result<VolumeOptions> ParseVolume(const std::string& text);

// Bytes of buffers, with K, M, G or T behind the number. EINVAL.
Result<uint64_t> ParseMaxMemory(const std::string& text);

// unix:///PATH, without TLS. EINVAL.
Result<Endpoint> ParseAdmin(const std::string& text);

// Adds what a TOML file says to *options; a setting of the file replaces the one in *options, lists
// get longer. The error names file and line.
Status ReadConfig(const std::string& path, Options* options);

// What no single setting can tell: something to offer, somewhere to listen, no name twice.
Status CheckOptions(const Options& options);

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_OPTIONS_H_
