// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who may do what with which volume: the rules of the configuration, by what a client's connection
// proves of it.
#ifndef CLOUDBLK_PROXY_ACCESS_H_
#define CLOUDBLK_PROXY_ACCESS_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/peer_identity.h"

namespace cloudblk::proxy {

enum class Right : uint8_t { kObserve, kRead, kWrite, kResize, kTakeover, kAdminister };

std::string_view Name(Right right);

// A set of them. Each brings along what it is of no use without: WRITE brings READ, all bring
// OBSERVE, and ADMINISTER is all of them.
class Rights {
 public:
  void Add(Right right);
  void Add(Rights other) { bits_ |= other.bits_; }
  bool has(Right right) const { return (bits_ & Bit(right)) != 0; }
  bool operator==(const Rights&) const = default;

 private:
  static uint8_t Bit(Right right) { return static_cast<uint8_t>(1u << static_cast<int>(right)); }

  uint8_t bits_ = 0;
};

// Of a connection, as the kernel or a handshake has it.
struct ClientIdentity {
  std::string address{};             // where it comes from, for people
  bool is_admin = false;             // by an address of --admin
  std::optional<uint32_t> uid{};     // of the process at the other end of a unix socket
  std::vector<uint32_t> gids{};      // likewise, with the supplementary groups
  std::vector<std::string> names{};  // of its certificate, which was verified
  std::optional<std::string> psk{};  // the identity whose key it has

  // What the handshake has proved beside that.
  void Add(const PeerIdentity& peer);
  // For people: "uid 1000", "an unknown client".
  std::string ToString() const;
};

// What a connected socket tells; `address` is empty.
ClientIdentity IdentityOf(int fd);

struct AccessRule {
  // Who: one of these.
  bool anyone = false;
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::optional<std::string> certificate;  // pattern of one of its names
  std::optional<std::string> psk;          // pattern of the identity
  // What: patterns of the shell's kind.
  std::vector<std::string> volumes;
  Rights rights;
};

// Constant. Any thread.
class AccessRules {
 public:
  AccessRules() = default;
  explicit AccessRules(std::vector<AccessRule> rules) : rules_(std::move(rules)) {}

  // Without a rule everybody may do everything; with one, only what a rule allows.
  bool empty() const { return rules_.empty(); }
  Rights Of(const ClientIdentity& client, const std::string& volume) const;

 private:
  std::vector<AccessRule> rules_;
};

// Those in force, which a reload replaces. Any thread.
class Access {
 public:
  std::shared_ptr<const AccessRules> rules() const {
    std::lock_guard lock(mutex_);
    return rules_;
  }
  void Replace(std::shared_ptr<const AccessRules> rules) {
    std::lock_guard lock(mutex_);
    rules_ = std::move(rules);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const AccessRules> rules_ = std::make_shared<AccessRules>();
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_ACCESS_H_
