// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/options.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
// Without exceptions a parse error is a value.
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "base/text.h"
#include "proxy-protocol/wire.h"
#include "proxy/backend_uri.h"

namespace cloudblk::proxy {
namespace {

// One configuration file while it is read; keeps the first error.
class ConfigReader {
 public:
  ConfigReader(const std::string& path, Options* options) : path_(path), options_(options) {}

  Status Read(const toml::table& table) {
    for (const auto& [key, value] : table) Setting(key.str(), value);
    return status_;
  }

 private:
  void Fail(const toml::node& where, const std::string& what) {
    if (!status_.ok()) return;
    status_ = Status(EINVAL, fmt::format("{}:{}: {}", path_, where.source().begin.line, what));
  }

  void Setting(std::string_view key, const toml::node& value) {
    if (key == "listen") {
      Listen(value);
    } else if (key == "threads") {
      Number(key, value, kMaxThreads, &options_->threads);
    } else if (key == "lease") {
      Number(key, value, kMaxLeaseS, &options_->lease_s);
    } else if (key == "max-connections") {
      Number(key, value, kMostConnections, &options_->max_connections);
    } else if (key == "max-memory") {
      Result<uint64_t> size = ParseMaxMemory(value.value_exact<std::string>().value_or(""));
      if (size.ok()) {
        options_->max_memory = *size;
      } else {
        Fail(value, size.status().message());
      }
    } else if (key == "log-level") {
      const auto text = value.value<std::string>();
      if (text && IsLogLevel(*text)) {
        options_->log_level = *text;
      } else {
        Fail(value, "log-level is \"debug\", \"info\", \"warning\", \"error\" or \"off\"");
      }
    } else if (key == "state-dir") {
      const auto text = value.value<std::string>();
      if (text) {
        options_->state_dir = *text;
      } else {
        Fail(value, "state-dir is the path of a folder, as a string");
      }
    } else if (key == "volumes") {
      Volumes(value);
    } else {
      Fail(value,
           fmt::format("unknown setting '{}'; there are listen, threads, lease, max-connections, "
                       "max-memory, log-level, state-dir and the table volumes",
                       key));
    }
  }

  void Number(std::string_view key, const toml::node& value, uint32_t most, uint32_t* out) {
    const auto number = value.value_exact<int64_t>();
    if (!number || *number < 1 || *number > most) {
      Fail(value, fmt::format("{} is a number from 1 to {}", key, most));
      return;
    }
    *out = static_cast<uint32_t>(*number);
  }

  void Listen(const toml::node& value) {
    if (const toml::array* list = value.as_array()) {
      for (const toml::node& item : *list) ListenAt(item);
    } else {
      ListenAt(value);
    }
  }

  void ListenAt(const toml::node& value) {
    const auto text = value.value<std::string>();
    if (!text) {
      Fail(value, "listen is an address or a list of addresses, as strings");
      return;
    }
    const Result<Endpoint> endpoint = ParseEndpoint(*text);
    if (endpoint.ok()) {
      options_->listen.push_back(endpoint.value());
    } else {
      Fail(value, endpoint.status().message());
    }
  }

  void Volumes(const toml::node& value) {
    const toml::table* table = value.as_table();
    if (table == nullptr) {
      Fail(value, "volumes is a table: [volumes], then NAME = \"BACKEND-URI\" lines");
      return;
    }
    for (const auto& [name, backend] : *table) {
      const auto text = backend.value<std::string>();
      if (text) {
        options_->volumes.push_back({std::string(name.str()), *text});
      } else {
        Fail(backend, fmt::format("the volume '{}' needs a backend URI as a string (a name with "
                                  "dots needs quotes)",
                                  name.str()));
      }
    }
  }

  const std::string path_;
  Options* const options_;
  Status status_;
};

}  // namespace

Result<uint64_t> ParseMaxMemory(const std::string& text) {
  const std::optional<uint64_t> size = ParseSize(text);
  if (size && *size >= kLeastMemory) return *size;
  return Status(EINVAL,
                fmt::format("max-memory '{}': write a size of at least {}M, for example 160M", text,
                            kLeastMemory >> 20));
}

bool IsLogLevel(const std::string& text) {
  return std::ranges::find(kLogLevels, text) != kLogLevels.end();
}

Result<VolumeOptions> ParseVolume(const std::string& text) {
  const size_t equals = text.find('=');
  // A URI without a name has its first '=' in its options.
  const std::string name = text.substr(0, equals);
  if (equals == std::string::npos || name.empty() || name.find_first_of(":?") != name.npos) {
    return Status(EINVAL, fmt::format("volume '{}': write NAME=BACKEND-URI, for example "
                                      "disk1=file:///var/lib/disk1.img (a name with ':' or '?' "
                                      "needs a configuration file)",
                                      text));
  }
  return VolumeOptions{name, text.substr(equals + 1)};
}

Status ReadConfig(const std::string& path, Options* options) {
  std::ifstream file(path);
  std::stringstream text;
  // To put out a file without a byte would count as a failure of `text`.
  if (file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (!file.is_open() || file.bad() || !text) {
    return Status(ENOENT, fmt::format("cannot read the configuration {}: {}", path,
                                      strerror(errno != 0 ? errno : EIO)));
  }
  const toml::parse_result parsed = toml::parse(text.str(), path);
  if (!parsed) {
    return Status(EINVAL, fmt::format("{}:{}: {}", path, parsed.error().source().begin.line,
                                      parsed.error().description()));
  }
  return ConfigReader(path, options).Read(parsed.table());
}

Status CheckOptions(const Options& options) {
  if (options.listen.empty()) {
    return Status(EINVAL, "no address to listen at; add --listen tcp://HOST:PORT or unix:///PATH");
  }
  if (options.volumes.empty()) {
    return Status(EINVAL, "no volume to offer; add --volume NAME=BACKEND-URI");
  }
  if (!options.state_dir.starts_with('/')) {
    return Status(EINVAL, fmt::format("state-dir '{}': write the absolute path of a folder",
                                      options.state_dir));
  }
  struct stat info{};
  if (stat(options.state_dir.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
    return Status(ENOTDIR, fmt::format("state-dir '{}' is not a folder", options.state_dir));
  }
  std::set<std::string> names;
  for (const VolumeOptions& volume : options.volumes) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(volume.name.data());
    if (volume.name.empty() || volume.name.size() > wire::kMaxVolumeName ||
        !IsText({bytes, volume.name.size()})) {
      return Status(EINVAL, fmt::format("volume '{}': a name has 1 to {} bytes of UTF-8",
                                        volume.name, wire::kMaxVolumeName));
    }
    if (std::ranges::any_of(volume.name, [](char c) { return c == 0x7f || (c >= 0 && c < ' '); })) {
      return Status(EINVAL, "a volume's name has a control character; it is for one line of a log");
    }
    if (!names.insert(volume.name).second) {
      return Status(EINVAL, fmt::format("volume '{}' is given twice", volume.name));
    }
  }
  return Status::Ok();
}

}  // namespace cloudblk::proxy
