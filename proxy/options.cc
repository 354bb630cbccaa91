// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/options.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <sstream>

#include "base/text.h"
#include "proxy-protocol/wire.h"
#include "proxy/backend_uri.h"
#include "proxy/toml.h"

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
      Listen(value, ParseEndpoint, &options_->listen);
    } else if (key == "admin") {
      Listen(value, ParseAdmin, &options_->admin);
    } else if (key == "access") {
      Access(value);
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
    } else if (key == "insecure") {
      Switch(key, value, &options_->insecure);
    } else if (key == "tls") {
      Tls(value);
    } else if (key == "volumes") {
      Volumes(value);
    } else {
      Fail(value,
           fmt::format("unknown setting '{}'; there are listen, admin, threads, lease, "
                       "max-connections, max-memory, log-level, state-dir, insecure, the tables "
                       "tls and volumes, and the list of tables access",
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

  void Switch(std::string_view key, const toml::node& value, bool* out) {
    const auto flag = value.value_exact<bool>();
    if (flag) {
      *out = *flag;
    } else {
      Fail(value, fmt::format("{} is true or false", key));
    }
  }

  void Tls(const toml::node& value) {
    const toml::table* table = value.as_table();
    if (table == nullptr) {
      Fail(value, "tls is a table: [tls], then dir = \"FOLDER\"");
      return;
    }
    for (const auto& [name, setting] : *table) TlsSetting(name.str(), setting);
  }

  void TlsSetting(std::string_view key, const toml::node& value) {
    if (key == "dir" || key == "priority") {
      String(value, fmt::format("{} is a string", key), [&](const auto&, const std::string& text) {
        (key == "dir" ? options_->tls.dir : options_->tls.priority) = text;
      });
    } else if (key == "verify-peer") {
      Switch(key, value, &options_->tls.verify_peer);
    } else if (key == "kind") {
      const auto text = value.value<std::string>();
      if (text != "x509" && text != "psk") {
        Fail(value, "kind is \"x509\" or \"psk\"");
        return;
      }
      options_->tls_kind = text == "psk" ? TlsSettings::Kind::kPsk : TlsSettings::Kind::kX509;
    } else {
      Fail(value, fmt::format("unknown setting '{}' of tls; there are dir, kind, verify-peer and "
                              "priority",
                              key));
    }
  }

  // Gives each string of a list, or the only one, to `take`.
  void Strings(const toml::node& value, const std::string& what,
               const std::function<void(const toml::node&, const std::string&)>& take) {
    if (const toml::array* list = value.as_array()) {
      for (const toml::node& item : *list) String(item, what, take);
    } else {
      String(value, what, take);
    }
  }

  void String(const toml::node& value, const std::string& what,
              const std::function<void(const toml::node&, const std::string&)>& take) {
    const auto text = value.value<std::string>();
    if (text) {
      take(value, *text);
    } else {
      Fail(value, what);
    }
  }

  using ParseAddress = std::function<Result<Endpoint>(const std::string&)>;
  void Listen(const toml::node& value, const ParseAddress& parse, std::vector<Endpoint>* out) {
    Strings(value, "an address or a list of addresses, as strings, is wanted here",
            [&](const toml::node& node, const std::string& text) {
              const Result<Endpoint> endpoint = parse(text);
              if (endpoint.ok()) {
                out->push_back(endpoint.value());
              } else {
                Fail(node, endpoint.status().message());
              }
            });
  }

  void Access(const toml::node& value) {
    const toml::array* list = value.as_array();
    if (list == nullptr || !list->is_homogeneous<toml::table>()) {
      Fail(value, "access is a list of tables: [[access]], then who, volumes and rights");
      return;
    }
    for (const toml::node& rule : *list) AccessFor(*rule.as_table());
  }

  void AccessFor(const toml::table& table) {
    AccessRule rule;
    int named = 0;
    for (const auto& [key, value] : table) {
      if (key == "volumes") {
        Strings(value, "volumes is a list of names, in which * and ? stand for others",
                [&](const auto&, const std::string& text) { rule.volumes.push_back(text); });
      } else if (key == "rights") {
        Strings(value, "rights is a list of strings",
                [&](const auto& node, const std::string& text) { AddRight(node, text, &rule); });
      } else {
        Who(key.str(), value, &rule);
        ++named;
      }
    }
    if (named != 1) {
      Fail(table, "who a rule is about is one of user, group, certificate, psk or anyone = true");
    } else if (rule.volumes.empty()) {
      Fail(table, "a rule needs volumes = [\"NAME\"]; [\"*\"] are all");
    } else if (rule.rights == Rights()) {
      Fail(table, "a rule needs rights = [...]");
    }
    options_->access.push_back(std::move(rule));
  }

  void AddRight(const toml::node& where, const std::string& text, AccessRule* rule) {
    for (const Right right : {Right::kObserve, Right::kRead, Right::kWrite, Right::kResize,
                              Right::kTakeover, Right::kAdminister}) {
      if (Name(right) != text) continue;
      rule->rights.Add(right);
      return;
    }
    Fail(where, fmt::format("no right '{}'; there are observe, read, write, resize, takeover and "
                            "administer",
                            text));
  }

  void Who(std::string_view key, const toml::node& value, AccessRule* rule) {
    if (key == "user") {
      rule->uid = Id(value, "user", [](const char* name) -> std::optional<uint32_t> {
        const passwd* found = getpwnam(name);
        return found == nullptr ? std::nullopt : std::optional(found->pw_uid);
      });
    } else if (key == "group") {
      rule->gid = Id(value, "group", [](const char* name) -> std::optional<uint32_t> {
        const group* found = getgrnam(name);
        return found == nullptr ? std::nullopt : std::optional(found->gr_gid);
      });
    } else if (key == "certificate" || key == "psk") {
      String(value, fmt::format("{} is a name, in which * and ? stand for others", key),
             [&](const auto&, const std::string& text) {
               (key == "psk" ? rule->psk : rule->certificate) = text;
             });
    } else if (key == "anyone") {
      rule->anyone = value.value_exact<bool>().value_or(false);
      if (!rule->anyone) Fail(value, "anyone is true, or is left out");
    } else {
      Fail(value, fmt::format("unknown setting '{}' of a rule; there are user, group, certificate, "
                              "psk, anyone, volumes and rights",
                              key));
    }
  }

  // A number, or the name of one that this host knows.
  std::optional<uint32_t> Id(const toml::node& value, const char* what,
                             std::optional<uint32_t> (*find)(const char*)) {
    if (const auto number = value.value_exact<int64_t>()) {
      if (*number >= 0 && *number < ~uint32_t{0}) return static_cast<uint32_t>(*number);
    } else if (const auto name = value.value_exact<std::string>()) {
      const std::optional<uint32_t> found = find(name->c_str());
      if (!found) Fail(value, fmt::format("there is no {} '{}' on this host", what, *name));
      return found;
    }
    Fail(value, fmt::format("{} is a name or a number", what));
    return std::nullopt;
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

Result<Endpoint> ParseAdmin(const std::string& text) {
  Result<Endpoint> endpoint = ParseEndpoint(text);
  if (!endpoint.ok() || (endpoint->kind == Endpoint::Kind::kUnix && !endpoint->tls)) {
    return endpoint;
  }
  return Status(EINVAL, fmt::format("admin address '{}': write unix:///PATH; who may reach it may "
                                    "do everything",
                                    text));
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
  const bool tls = std::ranges::any_of(options.listen, &Endpoint::tls);
  if (tls && options.tls.dir.empty()) {
    return Status(EINVAL,
                  "an address with TLS needs credentials; add --tls-dir DIR, with server-cert.pem, "
                  "server-key.pem and ca-cert.pem, or keys.psk, in it");
  }
  if (!tls && !options.tls.dir.empty()) {
    return Status(
        EINVAL,
        "there are TLS credentials and no address with TLS; add --listen tls://HOST:PORT, "
        "or leave --tls-dir out");
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
