// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/access.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/text.h"

namespace cloudblk::proxy {
namespace {

bool Matches(const std::string& pattern, const std::string& text) {
  // What lies behind a zero byte would not be looked at.
  return text.find('\0') == std::string::npos && fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

bool IsAbout(const AccessRule& rule, const ClientIdentity& client) {
  if (rule.anyone) return true;
  if (rule.uid) return client.uid == rule.uid;
  if (rule.gid) return std::ranges::find(client.gids, *rule.gid) != client.gids.end();
  if (rule.psk) return client.psk && Matches(*rule.psk, *client.psk);
  return rule.certificate && std::ranges::any_of(client.names, [&](const std::string& name) {
           return Matches(*rule.certificate, name);
         });
}

}  // namespace

std::string_view Name(Right right) {
  switch (right) {
    case Right::kObserve:
      return "observe";
    case Right::kRead:
      return "read";
    case Right::kWrite:
      return "write";
    case Right::kResize:
      return "resize";
    case Right::kTakeover:
      return "takeover";
    case Right::kAdminister:
      return "administer";
  }
  return "?";
}

void Rights::Add(Right right) {
  bits_ |= Bit(right) | Bit(Right::kObserve);
  if (right == Right::kWrite) bits_ |= Bit(Right::kRead);
  if (right == Right::kAdminister) bits_ |= static_cast<uint8_t>(2 * Bit(right) - 1);
}

void ClientIdentity::Add(const PeerIdentity& peer) {
  names.insert(names.end(), peer.names.begin(), peer.names.end());
  if (peer.psk.has_value()) psk = peer.psk;
}

std::string ClientIdentity::ToString() const {
  if (!names.empty()) return fmt::format("certificate '{}'", Printable(names.front()));
  if (psk) return fmt::format("PSK identity '{}'", Printable(*psk));
  if (uid) return fmt::format("uid {}", *uid);
  return "an unknown client";
}

ClientIdentity IdentityOf(int fd) {
  ClientIdentity identity;
  ucred peer{};
  socklen_t length = sizeof peer;
  // Only a unix socket has that; its peer may live where its users are not this host's.
  constexpr uint32_t kNone = ~uint32_t{0};
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid == kNone) {
    return identity;
  }
  identity.uid = peer.uid;
  identity.gids.resize(32);
  for (;;) {
    length = static_cast<socklen_t>(identity.gids.size() * sizeof(gid_t));
    const int error = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, identity.gids.data(), &length);
    if (error == 0 || errno != ERANGE) {
      identity.gids.resize(error == 0 ? length / sizeof(gid_t) : 0);
      break;
    }
    identity.gids.resize(length / sizeof(gid_t));
  }
  identity.gids.push_back(peer.gid);
  return identity;
}

Rights AccessRules::Of(const ClientIdentity& client, const std::string& volume) const {
  Rights rights;
  if (rules_.empty() || client.is_admin) rights.Add(Right::kAdminister);
  for (const AccessRule& rule : rules_) {
    const bool is_named = std::ranges::any_of(
        rule.volumes, [&](const std::string& pattern) { return Matches(pattern, volume); });
    if (is_named && IsAbout(rule, client)) rights.Add(rule.rights);
  }
  return rights;
}

}  // namespace cloudblk::proxy
