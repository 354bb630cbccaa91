// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/uri.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <set>
#include <utility>

#include "base/text.h"
#include "proxy-protocol/nbd/nbd.h"

namespace cloudblk {
namespace {

constexpr std::string_view kNativeForms =
    "write cloudblk://HOST[:PORT][,HOST2[:PORT2]...]/VOLUME or "
    "cloudblk+unix:///VOLUME?socket=/PATH";
constexpr std::string_view kNbdForms =
    "write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=/PATH";
// A server that answers again has done what it had, or never will.
constexpr uint32_t kMostQuarantine = 3600;

struct Scheme {
  std::string_view name;
  Protocol protocol;
  bool is_unix;
  bool tls;
};
constexpr std::array<Scheme, 8> kSchemes = {{
    {"cloudblk", Protocol::kNative, false, false},
    {"cloudblk+unix", Protocol::kNative, true, false},
    {"cloudblks", Protocol::kNative, false, true},
    {"cloudblks+unix", Protocol::kNative, true, true},
    {"nbd", Protocol::kNbd, false, false},
    {"nbd+unix", Protocol::kNbd, true, false},
    {"nbds", Protocol::kNbd, false, true},
    {"nbds+unix", Protocol::kNbd, true, true},
}};

Status Bad(std::string_view uri, const std::string& why) {
  const bool nbd = uri.starts_with("nbd");
  return Status(EINVAL, "server URI '" + std::string(uri) + "' " + why + "; " +
                            std::string(nbd ? kNbdForms : kNativeForms));
}

Status CheckVolume(std::string_view uri, Protocol protocol, const std::string& volume) {
  const bool nbd = protocol == Protocol::kNbd;
  if (volume.empty() && !nbd) return Bad(uri, "names no volume");
  const size_t most = nbd ? nbd::kMaxName : kMaxVolumeName;
  if (volume.size() > most) {
    return Bad(uri, "has a volume name of more than " + std::to_string(most) + " bytes");
  }
  if (!IsText(volume)) return Bad(uri, "has a volume name that is not UTF-8");
  return Status::Ok();
}

Result<std::vector<Endpoint>> ParseHosts(std::string_view uri, std::string_view hosts,
                                         uint16_t default_port) {
  std::vector<Endpoint> endpoints;
  while (true) {
    const size_t comma = hosts.find(',');
    Result<Endpoint> endpoint = ParseHostPort(hosts.substr(0, comma), default_port);
    if (!endpoint.ok()) return Bad(uri, "has a bad host: " + endpoint.status().message());
    if (endpoint->host.empty()) return Bad(uri, "names no host");
    if (endpoint->port == 0) return Bad(uri, "has port 0");
    // The zone of a link-local address, as RFC 6874 writes it.
    constexpr std::string_view kZone = "%25";
    const size_t zone = endpoint->host.find(kZone);
    if (zone != std::string::npos && zone + kZone.size() < endpoint->host.size()) {
      endpoint->host.replace(zone, kZone.size(), "%");
    }
    endpoints.push_back(*endpoint);
    if (comma == std::string_view::npos) return endpoints;
    hosts.remove_prefix(comma + 1);
  }
}

Result<std::vector<Endpoint>> SocketOf(std::string_view uri, std::string_view value) {
  Result<std::string> path = PercentDecode(value);
  if (!path.ok()) return Bad(uri, path.status().message());
  if (!path->starts_with('/')) return Bad(uri, "has a socket path that is not absolute");
  Endpoint endpoint;
  endpoint.kind = Endpoint::Kind::kUnix;
  endpoint.path = *path;
  return std::vector<Endpoint>{endpoint};
}

// False: the value is none of those that the key may have.
bool TakeNbdOption(std::string_view key, std::string_view value, NbdOptions* options) {
  if (key == "noflush") {
    options->accept_no_flush = true;
    return value == "accept";
  }
  if (key == "unflushed") {
    options->loses_unflushed = value == "lost";
    return value == "lost" || value == "kept";
  }
  if (key == "failover") {
    options->unfenced_failover = true;
    return value == "unfenced";
  }
  const auto [end, error] =
      std::from_chars(value.data(), value.data() + value.size(), options->quarantine_s);
  return key == "quarantine" && error == std::errc() && end == value.data() + value.size() &&
         options->quarantine_s <= kMostQuarantine;
}

bool IsNbdOption(std::string_view key) {
  return key == "noflush" || key == "unflushed" || key == "failover" || key == "quarantine";
}

// What stands behind '?'. `is_unix`: a socket has to be named.
Status ParseQuery(std::string_view uri, bool is_unix, std::string_view query, ServerUri* parsed) {
  std::set<std::string_view> seen;
  for (bool more = !query.empty(); more;) {
    const size_t ampersand = query.find('&');
    const std::string_view item = query.substr(0, ampersand);
    more = ampersand != std::string_view::npos;
    if (more) query.remove_prefix(ampersand + 1);
    const std::string_view key = item.substr(0, item.find('='));
    const std::string_view value = item.substr(std::min(item.size(), key.size() + 1));
    if (!seen.insert(key).second) return Bad(uri, "has " + std::string(key) + "= twice");
    if (is_unix && key == "socket") {
      Result<std::vector<Endpoint>> socket = SocketOf(uri, value);
      if (!socket.ok()) return socket.status();
      parsed->endpoints = std::move(*socket);
      continue;
    }
    if (parsed->protocol != Protocol::kNbd || !IsNbdOption(key)) {
      return Bad(uri, "has the unknown option '" + std::string(item) +
                          "' behind '?' (& in a path is written %26)");
    }
    if (!TakeNbdOption(key, value, &parsed->nbd)) {
      return Bad(uri, "has a wrong value in '" + std::string(item) +
                          "': there are noflush=accept, unflushed=kept, unflushed=lost, "
                          "failover=unfenced and quarantine=SECONDS up to 3600");
    }
  }
  if (is_unix && parsed->endpoints.empty()) return Bad(uri, "lacks ?socket=/PATH");
  return Status::Ok();
}

}  // namespace

Result<std::string> PercentDecode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    uint8_t byte = 0;
    const std::string_view digits = text.substr(i + 1, 2);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
    if (error != std::errc() || end != digits.data() + 2 || byte == 0) {
      return Status(EINVAL,
                    "has a '%' that is not followed by two hexadecimal digits other than "
                    "00 (a '%' itself is written %25)");
    }
    out.push_back(static_cast<char>(byte));
    i += 2;
  }
  return out;
}

Result<ServerUri> ParseServerUri(std::string_view uri) {
  const size_t separator = uri.find("://");
  if (separator == std::string_view::npos) return Bad(uri, "has no scheme");
  const std::string_view name = uri.substr(0, separator);
  const auto scheme = std::ranges::find(kSchemes, name, &Scheme::name);
  if (scheme == kSchemes.end()) {
    return Bad(uri, "has the unknown scheme '" + std::string(name) + "'");
  }
  const bool is_nbd = scheme->protocol == Protocol::kNbd;
  if (is_nbd && uri.find('#') != std::string_view::npos) {
    return Bad(uri, "has a '#', which in a name is written %23");
  }
  const std::string_view rest = uri.substr(separator + 3);
  const size_t question = std::min(rest.find('?'), rest.size());
  const size_t slash = std::min(rest.find('/'), question);
  // An NBD server's default export has no name.
  if (slash == question && !is_nbd) return Bad(uri, "names no volume");
  const std::string_view authority = rest.substr(0, slash);
  const std::string_view path =
      slash == question ? std::string_view() : rest.substr(slash + 1, question - slash - 1);

  ServerUri parsed;
  parsed.protocol = scheme->protocol;
  parsed.tls = scheme->tls;
  if (scheme->is_unix) {
    if (!authority.empty()) return Bad(uri, "has a host, which a unix socket lacks");
  } else {
    Result<std::vector<Endpoint>> hosts =
        ParseHosts(uri, authority, is_nbd ? nbd::kDefaultPort : kDefaultPort);
    if (!hosts.ok()) return hosts.status();
    parsed.endpoints = std::move(*hosts);
  }
  const std::string_view query =
      question == rest.size() ? std::string_view() : rest.substr(question + 1);
  Status status = ParseQuery(uri, scheme->is_unix, query, &parsed);
  if (!status.ok()) return status;
  Result<std::string> volume = PercentDecode(path);
  if (!volume.ok()) return Bad(uri, volume.status().message());
  status = CheckVolume(uri, parsed.protocol, *volume);
  if (!status.ok()) return status;
  parsed.volume = std::move(*volume);
  return parsed;
}

}  // namespace cloudblk
