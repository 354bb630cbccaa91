// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BASE_PEER_IDENTITY_H_
#define CLOUDBLK_BASE_PEER_IDENTITY_H_

#include <optional>
#include <string>
#include <vector>

namespace cloudblk {

// Who is at the other end of a connection, as its handshake has proved.
struct PeerIdentity {
  // The names of its certificate, which was verified: the subject (RFC 4514), its common name, and
  // the DNS names, URIs and mail addresses of the alternative names. None has a zero byte.
  std::vector<std::string> names{};
  // The identity whose pre-shared key it has.
  std::optional<std::string> psk{};
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_PEER_IDENTITY_H_
