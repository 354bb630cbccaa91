// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/uri.h"

#include <cerrno>
#include <charconv>

#include "base/text.h"

namespace cloudblk {
namespace {

constexpr std::string_view kForms =
    "write cloudblk://HOST[:PORT][,HOST2[:PORT2]...]/VOLUME or "
    "cloudblk+unix:///VOLUME?socket=/PATH";

Status Bad(std::string_view uri, const std::string& why) {
  return Status(EINVAL,
                "server URI '" + std::string(uri) + "' " + why + "; " + std::string(kForms));
}

Status CheckVolume(std::string_view uri, const std::string& volume) {
  if (volume.empty()) return Bad(uri, "names no volume");
  if (volume.size() > kMaxVolumeName) {
    return Bad(uri, "has a volume name of more than " + std::to_string(kMaxVolumeName) + " bytes");
  }
  if (!IsText(volume)) return Bad(uri, "has a volume name that is not UTF-8");
  return Status::Ok();
}

Result<std::vector<Endpoint>> ParseHosts(std::string_view uri, std::string_view hosts) {
  std::vector<Endpoint> endpoints;
  while (true) {
    const size_t comma = hosts.find(',');
    Result<Endpoint> endpoint = ParseHostPort(hosts.substr(0, comma), kDefaultPort);
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

Result<std::vector<Endpoint>> ParseSocketQuery(std::string_view uri, std::string_view query) {
  constexpr std::string_view kKey = "socket=";
  if (!query.starts_with(kKey)) return Bad(uri, "lacks ?socket=/PATH");
  if (query.find('&') != std::string_view::npos) {
    return Bad(uri, "has more than socket=/PATH behind '?'; write & in a path as %26");
  }
  Result<std::string> path = PercentDecode(query.substr(kKey.size()));
  if (!path.ok()) return Bad(uri, path.status().message());
  if (!path->starts_with('/')) return Bad(uri, "has a socket path that is not absolute");
  Endpoint endpoint;
  endpoint.kind = Endpoint::Kind::kUnix;
  endpoint.path = *path;
  return std::vector<Endpoint>{endpoint};
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
  const std::string_view scheme = uri.substr(0, separator);
  for (const std::string_view known :
       {"nbd", "nbd+unix", "nbds", "nbds+unix", "cloudblks", "cloudblks+unix"}) {
    if (scheme != known) continue;
    return Status(ENOTSUP, "server URI '" + std::string(uri) + "': scheme " + std::string(scheme) +
                               ":// is not supported by this build yet; use cloudblk:// or "
                               "cloudblk+unix://");
  }
  const bool is_unix = scheme == "cloudblk+unix";
  if (!is_unix && scheme != "cloudblk") {
    return Bad(uri, "has the unknown scheme '" + std::string(scheme) + "'");
  }
  const std::string_view rest = uri.substr(separator + 3);
  const size_t slash = rest.find('/');
  if (slash == std::string_view::npos) return Bad(uri, "names no volume");
  const std::string_view authority = rest.substr(0, slash);
  const std::string_view path = rest.substr(slash + 1, rest.find('?') - slash - 1);
  const size_t question = rest.find('?');
  const std::string_view query =
      question == std::string_view::npos ? std::string_view() : rest.substr(question + 1);

  if (is_unix && !authority.empty()) return Bad(uri, "has a host, which a unix socket lacks");
  if (!is_unix && question != std::string_view::npos) {
    return Bad(uri, "has options ('?...'), and there are none for this scheme");
  }
  Result<std::vector<Endpoint>> endpoints =
      is_unix ? ParseSocketQuery(uri, query) : ParseHosts(uri, authority);
  if (!endpoints.ok()) return endpoints.status();
  Result<std::string> volume = PercentDecode(path);
  if (!volume.ok()) return Bad(uri, volume.status().message());
  const Status status = CheckVolume(uri, *volume);
  if (!status.ok()) return status;
  return ServerUri{std::move(*endpoints), std::move(*volume)};
}

}  // namespace cloudblk
